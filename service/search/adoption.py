"""Which recorded trials fit a sweep, so that they need not be trained again.

A sweep that was changed keeps the trials that it would make itself: with the same training, of an arm that it still
has, with parameters within its ranges, and with a seed of the same phase. The same rule selects trials of other sweeps.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from service.records.recorder import Recorder
from service.records.software import software_versions
from service.records.state import State, TrialRecord, flatten
from service.search.space import Arm, make_config
from service.spec import SweepSpec
from sparsity.import_strings import short_name
from trainables.config import TrialConfig
from trainables.pruning_method import PruningMethod
from trainables.result import RESULT, Status

__all__ = ["Adoptable", "admit", "adopted_points", "check_data", "left_out", "parameters_of"]


def parameters_of(spec: SweepSpec, arms: Sequence[Arm], trial: TrialRecord) -> dict[str, Any] | None:
    """The searched parameters with which a sweep would make this trial itself; None if it would not."""
    arm = next((arm for arm in arms if arm.name == trial.arm), None)
    config = TrialConfig.model_validate(trial.config)
    is_unseen = config.seed >= spec.first_unseen_seed
    if arm is None or config.seed < spec.trial.seed or is_unseen != (trial.phase == "confirm"):
        return None
    values = {name: value_of(config, name) for name in arm.space}
    if not all(contains(arm.space[name], value) for name, value in values.items()):
        return None
    try:
        made = make_config(spec, arm.choices, values, seed=config.seed, read_test=config.read_test)
    except ValueError:
        return None
    return values if made.key == config.key else None


def value_of(config: TrialConfig, name: str) -> Any:
    group, _, key = name.rpartition("/")
    return getattr(config, group).get(key) if group else getattr(config, key)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def left_out(spec: SweepSpec, arms: Sequence[Arm], state: State) -> list[str]:
    """The keys of the recorded trials that do not fit a sweep.

    Raises:
        ValueError: If trials have finished and none of them fits, unless that is because files have changed: your own
            code is then trained anew.
    """
    fits = {key: parameters_of(spec, arms, trial) is not None for key, trial in state.trials.items()}
    finished = [key for key, trial in state.trials.items() if trial.status == Status.FINISHED]
    recorded, given = state.identity, spec.identity()
    same_names = without_sources(recorded) == without_sources(given)
    if finished and not any(fits[key] for key in finished) and not same_names:
        raise ValueError(f"{state.folder}: {explain_difference(recorded, given)}")
    return [key for key, fitting in fits.items() if not fitting]


def admit(spec: SweepSpec, arms: Sequence[Arm], records: Recorder, others: Sequence[State], *, data: str) -> list[str]:
    """Begin a sweep's records, or continue them, even if the sweep has been changed since.

    Args:
        others: The states of the sweeps to take trials from.
        data: Fingerprint of the data.

    Returns:
        Lines that tell the user what has changed.

    Raises:
        ValueError: If the data are others, or no finished trial fits.
    """
    state, identity = records.state, spec.identity()
    lines: list[str] = []
    for other in others:
        check_data(other, data)
        lines += other_software(other)
    if not state.header:
        records.sweep_begun(identity, data=data)
        return lines
    check_data(state, data)
    lines += other_software(state)
    new = set(spec.adopt) - set(state.search_state.get("adopted_from", spec.adopt))
    if state.identity != identity or new:
        changed = changes(state.identity, identity)
        out = left_out(spec, arms, state)
        finished = {trial.key for trial in state.trials.values() if trial.status == Status.FINISHED}
        records.sweep_changed(identity, left_out=out)
        kept, gone = len(finished - set(out)), len(finished & set(out))
        lines.append(
            f"the sweep was changed ({'; '.join(changed[:4]) or 'adopt: ' + ', '.join(sorted(new))}"
            f"{'; ...' if len(changed) > 4 else ''}): {kept} of its {kept + gone} finished trials fit and are kept"
            + (f"; left out of the tables: {gone}" if gone else "")
        )
    return lines + without_size(state)


def without_size(state: State) -> list[str]:
    """A line if the sweep limits the size of networks, and trials were recorded without one."""
    if state.goal.max_macs_left is None:
        return []
    trials = [t for t in state.trials.values() if t.status == Status.FINISHED and not t.left_out]
    unknown = sum(
        trial.at(state.goal.target_sparsity, "macs_left", "curve", state.goal.method) is None for trial in trials
    )
    if not unknown:
        return []
    return [
        f"max_macs_left: no size was recorded for {unknown} of {len(trials)} finished trials (as with --no-sizes). "
        "They count as not smaller than the dense network; a sweep with another --name trains them again"
    ]


def other_software(state: State) -> list[str]:
    """A line if a sweep's trials were trained with other software than this."""
    now, then = software_versions(), state.header["software"]
    versions = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if now[name] != then.get(name)]
    if not versions:
        return []
    return [
        f"{state.folder.name} was started with other software ({'; '.join(versions)}). Its numbers may differ slightly "
        "from those of new trials"
    ]


def check_data(state: State, data: str) -> None:
    """Raise ValueError if a sweep's trials were trained on other data."""
    if not state.header:
        raise ValueError(f"adopt: must be a sweep that has begun, got {state.folder.name}, whose records are empty")
    if state.header["data"] != data:
        raise ValueError(
            f"data: must be the same as in {state.folder} (results on different data cannot be compared), got other "
            "data: choose another --name, or restore the data"
        )


def adopted_points(spec: SweepSpec, arms: Sequence[Arm], states: Iterable[State]) -> dict[str, list[dict[str, Any]]]:
    """For each arm, the parameters of the recorded search trials that fit, in the order of the records.

    An arm has at most `num_trials` of them, so that no arm has more configurations than another.
    """
    points: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for state in states:
        for trial in sorted(state.trials.values(), key=lambda trial: trial.number):
            if trial.phase != "search" or (state.folder != spec.folder and trial.status != Status.FINISHED):
                continue
            if (values := parameters_of(spec, arms, trial)) is None:
                continue
            of_arm = points[trial.arm]
            if values not in of_arm and len(of_arm) < spec.num_trials:
                of_arm.append(values)
    return {arm: of_arm for arm, of_arm in points.items() if of_arm}


class Adoptable:
    """The trials of other folders that a sweep may take over, and networks that it has trained itself.

    Args:
        folder: The folder of the sweep's own trials.
        own: The sweep's own state. A search trial and a confirmation of the same training differ in their key, but not
            in their network.
        others: The states of the sweeps to take trials from.
    """

    def __init__(self, folder: Path, own: State, others: Iterable[State]):
        self.folder = folder
        self._results: dict[str, Path] = {}  # by key
        self._networks: dict[str, Path] = {}  # by training key
        for state in (own, *others):
            for trial in state.trials.values():
                place = state.trial_folder(trial.key)
                if trial.status != Status.FINISHED:
                    continue
                if state is not own:
                    self._results.setdefault(trial.key, place)
                if (place / "trained" / "config.json").exists():
                    self._networks.setdefault(TrialConfig.model_validate(trial.config).training_key, place)

    def take(self, config: TrialConfig) -> Path | None:
        """Link the files of a trial, or else of its training, into the sweep's folder, unless it has a folder already.

        Returns:
            The folder that they were taken from, if any.
        """
        own = self.folder / config.key
        if (own / "trained").exists():
            return None
        whole = self._results.get(config.key)
        if whole is not None and (whole / RESULT).exists() and not (own / RESULT).exists():
            link_tree(whole, own)
            return whole
        network = self._networks.get(config.training_key)
        if network is not None and network != own:
            link_tree(network / "trained", own / "trained")
            return network
        return None


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by content where the file system has none. A part is never visible."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, copy_function=link_or_copy, ignore=shutil.ignore_patterns("*.partial", "owner"))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def explain_difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Why a sweep cannot continue a folder's records."""
    changed = changes(recorded, given)
    return (
        "must have a finished trial that fits this sweep, none of them fits "
        f"({'; '.join(changed[:4])}{', ...' if len(changed) > 4 else ''}): choose another --name or --runs, or remove "
        "the folder"
    )


def changes(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The entries in which two identities differ, as text."""
    a, b = in_words(without_sources(recorded)), in_words(without_sources(given))
    before, now = sources_of(recorded), sources_of(given)
    return [
        *(f"the source of {short_name(name)} has changed" for name in now if before.get(name, now[name]) != now[name]),
        *(f"{name}: recorded {a.get(name)}, now {b.get(name)}" for name in {**a, **b} if a.get(name) != b.get(name)),
    ]


def sources_of(identity: Mapping[str, Any]) -> dict[str, str]:
    return identity["trial"].get("sources", {})


def without_sources(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "trial": {name: v for name, v in identity["trial"].items() if name != "sources"}}


def in_words(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an identity by their flat names, lists as words."""
    labels = [PruningMethod(**method).label for method in identity["pruning"]]
    flat = flatten({**identity, "pruning": labels})
    return {
        name: ", ".join(map(str, value)) or "(none)" if isinstance(value, list) else value
        for name, value in flat.items()
    }
