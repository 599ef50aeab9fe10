"""Evaluating the finished trials of a sweep by further pruning methods, at further sparsities, without training."""

from collections.abc import Callable, Sequence

from service.records.recorder import Recorder
from service.records.state import TrialRecord
from service.search.queue import Next, Proposal, TrialQueue
from service.search.wanted import Wanted
from trainables.config import TrialConfig
from trainables.pruning_method import PruningMethod
from trainables.result import Status

__all__ = ["Reprune"]


class Reprune(TrialQueue):
    """Hands out each finished trial that lacks something, with the methods and sparsities to evaluate.

    Args:
        methods: Pruning methods, beside the one that decides the sweep's objective.
        sparsities: Sparsities, beside those of the sweep.
        select: Which of the finished trials; default: all.

    Attributes:
        num_finished: Number of finished trials that are selected.
        num_measured: Number of finished trials that already have all results.
        not_kept: The trials whose trained weights were not kept.
        of_rounds: The trials whose pruning schedule prunes during training, so their networks cannot be pruned again.

    Raises:
        ValueError: If a method cannot prune to one of the sparsities.
    """

    def __init__(
        self,
        records: Recorder,
        methods: Sequence[PruningMethod],
        sparsities: Sequence[float],
        select: Callable[[TrialRecord], bool] = lambda trial: True,
    ):
        super().__init__(records)
        state = records.state
        trials = [trial for trial in state.trials.values() if trial.status == Status.FINISHED and not trial.left_out]
        finished = [trial for trial in trials if select(trial)]
        self.num_finished = len(finished)
        self.num_measured = 0
        self.not_kept: list[str] = []
        self.of_rounds: list[str] = []
        self._left: list[Proposal] = []
        self._wanted: dict[str, Wanted] = {}
        decisive = PruningMethod(**state.identity["pruning"][0])
        if decisive.only_level is not None and sparsities:
            raise ValueError(
                f"sparsity: must be left out (the sweep's own scope {decisive.scope} has one sparsity only), got "
                f"{', '.join(f'{level:g}' for level in sparsities)}"
            )
        for trial in finished:
            config = TrialConfig.model_validate(trial.config)
            if config.pruning_schedule != "one_shot":
                self.of_rounds.append(trial.key)
                continue
            goal = {"target_sparsity": state.goal.target_sparsity, "sparsities": (*state.goal.levels, *sparsities)}
            if decisive.only_level is not None:
                goal["sparsities"] = ()
            fields = dict(config) | dict(decisive) | goal | {"more_pruning": tuple(methods)}
            config = TrialConfig.model_validate(fields)
            wanted = Wanted(config, state.folder / "trials")
            if wanted.has(trial):
                self.num_measured += 1
            elif not wanted.is_kept(trial.key):
                self.not_kept.append(trial.key)
            else:
                self._wanted[trial.key] = wanted
                self._left.append(Proposal(config, trial.phase, trial.arm, trial.number))

    def _next(self) -> Proposal | Next:
        return self._left.pop(0) if self._left else Next.FINISHED

    def has_ended(self, key: str) -> bool:
        trial = self.records.state.trials[key]
        return bool(trial.unmeasured) or self._wanted[key].has(trial)

    @property
    def complete(self) -> bool:
        """Whether every trial has been evaluated, or has failed."""
        return not self.num_left and all(self.has_ended(key) for key in self._wanted)

    @property
    def num_left(self) -> int:
        return 0 if self.stopped_because else len(self._repeat) + len(self._left)
