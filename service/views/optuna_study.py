"""The search of a sweep as an Optuna study, for Optuna's dashboard and its plots."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from service.records.state import State, TrialRecord, flatten
from sparsity.import_strings import short_name
from trainables.config import hyperparameters
from trainables.result import Status

__all__ = ["quiet_optuna", "write_study"]

NOT_SEARCHED = ("seed", "read_test")


def write_study(state: State, path: Path) -> int:
    """Write the trials of a sweep's search to a journal file of Optuna, which replaces an earlier one.

    The study has the name of the sweep. Its parameters are the fields of the configuration that differ between trials,
    such as `optimizer`, `lam` and `opt/rho`; its value is the sweep's objective. A trial of several seeds is several
    trials of the study. The user attributes of a trial are its key, arm and seed, and its status and reason.

    Args:
        state: The records.
        path: The file.

    Returns:
        The number of trials.

    Raises:
        ValueError: If no trial of the search has ended.
    """
    records = [t for t in state.trials.values() if t.phase == "search" and t.done and not t.left_out]
    if not records:
        raise ValueError(f"optuna: {state.folder.name} must have a finished trial of the search, got none")
    configs = [fields(trial) for trial in records]
    distributions = ranges(configs)
    trials = [as_trial(state, *each, distributions) for each in zip(records, configs, strict=True)]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".optuna-") as folder:
        partial = Path(folder) / path.name
        with quiet_optuna():
            storage = JournalStorage(JournalFileBackend(str(partial)))
            study = optuna.create_study(study_name=state.folder.name, storage=storage, direction="maximize")
            study.set_metric_names([state.goal.in_words(records[0].objective)])
            study.add_trials(trials)
        os.replace(partial, path)
    return len(trials)


def fields(trial: TrialRecord) -> dict[str, Any]:
    """The configuration by flat names; without a regularizer it has no lam."""
    config = trial.config | {"lam": hyperparameters(trial.config)["lam"]}
    return {name: short_name(v) if isinstance(v, str) else v for name, v in flatten(config).items()}


def ranges(configs: list[dict[str, Any]]) -> dict[str, BaseDistribution]:
    """The range of each number and word that differs between configurations; of numbers above 0 in logarithms."""
    names = dict.fromkeys(name for config in configs for name in config if name not in NOT_SEARCHED)
    found: dict[str, BaseDistribution] = {}
    for name in names:
        given = [config[name] for config in configs if config.get(name) is not None]
        if all(isinstance(value, str | bool) for value in given) and len(set(given)) > 1:
            found[name] = CategoricalDistribution(sorted(set(given), key=str))
        elif all(isinstance(value, float | int) for value in given) and len(set(given)) > 1:
            found[name] = FloatDistribution(float(min(given)), float(max(given)), log=min(given) > 0)
    return found


def as_trial(
    state: State, record: TrialRecord, config: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    value = state.goal.value(record) if record.status == Status.FINISHED else None
    used = {name: config[name] for name in distributions if config.get(name) is not None}
    about = {"trial": record.key, "arm": record.arm, "seed": record.config["seed"], "status": str(record.status)}
    about |= {"reason": record.reason} if record.reason else {}
    about |= {} if value is None else {"dense": state.goal.dense(record)}
    return optuna.create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params=used,
        distributions={name: distributions[name] for name in used},
        user_attrs=about,
    )


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without a line for each study, and without the notices that a class is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
