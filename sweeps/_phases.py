"""Which trials a sweep makes, in which order, and what of them is still to come."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sweeps._records import Records, best
from sweeps._searcher import FINISHED, Arm, FixedTrials, Proposal, Search, open_storage
from sweeps._sweep import Sweep
from trainables.config import TrialConfig

__all__ = ["STORAGE_HINT", "Phases", "known_elsewhere"]

STORAGE_HINT = "No more trials are started. Make room, or the folder writable, and run the same command again."


class Phases:
    """The search, and when all of it has ended, the best configurations again on unseen seeds, with the test split."""

    def __init__(self, sweep: Sweep, arms: list[Arm], records: Records, objective: str):
        self.sweep, self.arms, self.records, self.objective = sweep, arms, records, objective
        plan = records.plan
        self.search = Search(
            sweep.name,
            arms,
            storage=open_storage(sweep.study_uri or sweep.folder / "study.log"),
            num_trials=sweep.num_trials,
            seed=sweep.seed,
            make_config=sweep.trial_config,
            outcome=self.outcome,
            first=plan["first"],
            num_parallel=plan["num_parallel"],
        )
        self.num_search = len(self.search.slots)
        most = len(arms) if sweep.confirm_arms else min(sweep.num_confirm, self.num_search)
        self.num_confirm = most * sweep.num_seeds
        self.confirm: FixedTrials | None = None
        self.stopped_because = ""
        self._launched: dict[str, Proposal] = {}  # by this process
        self._again: list[Proposal] = []

    def outcome(self, key: str) -> float | None:
        trial = self.records.trials.get(key)
        if trial is None or not trial.done:
            return None
        return trial.report[f"{self.objective}_pruned"] if trial.status == "finished" else float("nan")

    def next(self) -> Any:
        """The next proposal, recorded as started; None while one has to wait for a result, or may yet have to be made
        again."""
        proposal: Any = FINISHED
        with self.stopping_on_storage_faults():
            proposal = self._again.pop(0) if self._again else self._next()
            if isinstance(proposal, Proposal) and not self.stopped_because:
                self._start(proposal)
        if self.stopped_because:
            return FINISHED
        if proposal is FINISHED and any(self.outcome(key) is None for key in self._launched):
            return None
        return proposal

    def _start(self, proposal: Proposal) -> None:
        config = proposal.config
        self.records.start(
            config.key,
            phase=proposal.phase,
            arm=proposal.arm,
            number=proposal.number,
            config=config.model_dump(mode="json"),
        )
        self._launched[config.key] = proposal

    def _next(self) -> Any:
        proposal = self.search.next()
        if proposal is not FINISHED:
            return proposal
        if self.confirm is None:
            if not self.search.ended():
                return None
            confirmations = self.confirmations()
            self.confirm, self.num_confirm = FixedTrials(confirmations), len(confirmations)
        while isinstance(proposal := self.confirm.next(), Proposal):
            if self.outcome(proposal.config.key) is None:
                return proposal
        return FINISHED

    def confirmations(self) -> list[Proposal]:
        """The best `num_confirm` configurations, or each arm's best, by validation; each with `num_seeds` new seeds."""
        keys = [self.search.config(slot).key for slot in self.search.slots]
        trials = [self.records.trials[key] for key in keys if self.records.trials[key].status == "finished"]
        trials.sort(key=lambda t: -t.report[f"{self.objective}_pruned"])
        if self.sweep.confirm_arms:
            by_arm = {trial.arm: trial for trial in reversed(trials)}
            chosen = sorted(by_arm.values(), key=lambda t: [arm.name for arm in self.arms].index(t.arm))
        else:
            chosen = trials[: self.sweep.num_confirm]
        proposals = []
        for trial in chosen:
            for seed in range(self.sweep.seed + 1, self.sweep.seed + 1 + self.sweep.num_seeds):
                config = TrialConfig.model_validate({**trial.config, "seed": seed, "read_test": True})
                proposals.append(Proposal(config, "confirm", trial.arm, trial.number))
        return proposals

    @property
    def num_to_come(self) -> int:
        """Trials that are still to be proposed, as far as can be said before the search has ended."""
        if self.stopped_because:
            return 0
        return len(self._again) + self.search.num_left + (self.confirm.num_left if self.confirm else self.num_confirm)

    def again(self, key: str) -> None:
        """Propose a launched trial once more."""
        self._again.append(self._launched[key])

    def label(self, key: str) -> str:
        return label(self._launched[key])

    def stop(self, reason: str) -> None:
        self.stopped_because = self.stopped_because or reason

    @contextlib.contextmanager
    def stopping_on_storage_faults(self) -> Iterator[None]:
        """Where the records cannot be written nothing more is started; what is on the disk stays good."""
        try:
            yield
        except OSError as error:
            self.stop(f"The records cannot be written: {error.strerror}, {error.filename}. {STORAGE_HINT}")

    def complete(self) -> bool:
        """Whether every trial of both phases has ended."""
        return self.search.ended() and all(self.outcome(p.config.key) is not None for p in self.confirmations())


def known_elsewhere(sweep: Sweep) -> dict[str, list[dict[str, float]]]:
    """For each arm, the best lam and rho recorded by other sweeps for this architecture at this sparsity: of the same
    dataset first, then of others."""
    rows = best(sweep.runs, architecture=sweep.architecture, skip_sweep=sweep.name)
    own = {"scheme": sweep.scheme, "criterion": sweep.criterion, "scope": sweep.scope}
    rows = [row for row in rows if row["sparsity"] == sweep.target_sparsity and own.items() <= row.items()]
    rows.sort(key=lambda row: row["dataset"] != sweep.dataset)
    points: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        point = {"lam": row["lam"], "opt/rho": row["rho"]}
        point = {name: value for name, value in point.items() if value is not None}
        if point:
            points.setdefault(f"{row['optimizer']} + {row['regularizer']}", []).append(point)
    return points


def label(proposal: Proposal) -> str:
    config = proposal.config
    parts = [proposal.arm]
    if config.regularizer != "none":
        parts.append(f"lam {config.lam:.2g}")
    if "rho" in config.opt:
        parts.append(f"rho {config.opt['rho']:.2g}")
    if proposal.phase != "search":
        parts.append(f"seed {config.seed}")
    return " ".join(parts)
