import json

import pytest

from service.records.recorder import Recorder
from service.records.summary import summarize
from sparsity.import_strings import short_name
from tests.service._sweeps import make
from trainables.config import TrialConfig
from trainables.pruning_method import PruningMethod

LEVELS = (0.0, 0.9)
IDENTITY = make(target_sparsity=0.9).identity()


def make_config(optimizer="sam", regularizer="wcr", lam=1e-5, rho=0.1, lr=0.1, seed=0, **more):
    return TrialConfig(
        optimizer=optimizer,
        opt={"lr": lr} | ({"rho": rho} if optimizer != "sgd" else {}),
        regularizer=regularizer,
        lam=0.0 if regularizer == "none" else lam,
        batch_size=8,
        target_sparsity=0.9,
        seed=seed,
        **{"dataset": "digits", "architecture": "small_resnet", "max_epochs": 3, **more},
    )


class ToySweep:
    """A sweep recorded as the service records it, with handmade results instead of trained ones."""

    def __init__(self, folder, identity=None):
        self.folder = folder
        self.recorder = Recorder(folder)
        if not self.recorder.state.header:
            self.recorder.sweep_begun(identity or IDENTITY, data="toy")
        self.number = 0

    @property
    def state(self):
        return self.recorder.state

    def start(self, config=None, **fields):
        """Record the start of a trial; returns its key."""
        config = config or make_config(**fields)
        arm = f"{short_name(config.optimizer)} + {short_name(config.regularizer)}"
        phase = "confirm" if config.read_test else "search"
        values = config.model_dump(mode="json")
        self.recorder.trial_started(config.key, phase=phase, arm=arm, number=self.number, config=values)
        self.number += 1
        return config.key

    def write_result(self, key, result):
        """Write what a trial leaves in its folder at its end."""
        folder = self.state.trial_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result))

    def trial(
        self,
        accs,
        *,
        phase="search",
        status="finished",
        test=None,
        evaluations=1,
        more=None,
        more_test=None,
        marks=None,
        others=None,
        **config,
    ):
        """Record a whole trial; returns its key.

        Args:
            accs: Validation accuracy, dense and at sparsity 0.9.
            phase: "search" or "confirm".
            status: Its status at the end.
            test: Test accuracy, dense and at 0.9.
            evaluations: Number of evaluations during training.
            more: Further metrics, the same in every row.
            more_test: Further metrics of the rows of the test split.
            marks: Further entries of the result, such as `warnings`.
            others: By label of another pruning method, validation and test accuracy at 0.9 (dense as with the first).
            config: Fields of its configuration.
        """
        more = {"loss": 0.5, "collapsed": 0.0, **(more or {})}
        made = make_config(read_test=phase == "confirm", **config)
        key = self.start(made)
        for epoch in range(1, evaluations + 1):
            report = {"epoch": epoch, "loss": 1.0 / epoch, "acc_dense": 0.5, "acc_pruned": 0.25}
            self.recorder.trial_evaluated(key, report)
        report = {"epoch": evaluations + 1, "seconds": 1.5, "loss": 0.1, "penalty": 3.0, "lr": 0.1}
        report |= {"reason": "", "status": status}
        if status != "finished":
            report |= {"acc_dense": None, "acc_pruned": None, "reason": "it diverged"}
            result = {"report": report, "notes": []}
        else:
            report |= {"acc_dense": accs[0], "acc_pruned": accs[1]}

            def entry(method, accs, test):
                curve, tested = (
                    values and [{"sparsity": s, "acc": a, **own} for s, a in zip(LEVELS, values, strict=True)]
                    for values, own in ((accs, more), (test, {**more, **(more_test or {})}))
                )
                fields = method.model_dump(mode="json")
                return {"label": method.label, "method": fields, "curve": curve, "test": tested}

            pruned = [entry(PruningMethod(), accs, test)]
            for label, values in (others or {}).items():
                criterion, scope = label.split()
                method = PruningMethod(criterion=criterion, scope=scope)
                pruned.append(entry(method, (accs[0], values[0]), test and (test[0], values[1])))
            layer = {"name": "stem.weight", "shape": [2, 2], "num_weights": 4, "num_kept": 2}
            layer |= {"energy_kept": 0.75, "histogram": [0] * 59 + [4]}
            result = {"report": report, "notes": [], "objective": "acc", "pruned": pruned, "layers": [layer]}
        self.write_result(key, result | {"config": made.model_dump(mode="json")} | (marks or {}))
        if status == "finished":
            pruned = self.state.trial_folder(key) / "pruned" / "0.9"
            pruned.mkdir(parents=True)
            (pruned / "config.json").write_text("{}")
        self.recorder.trial_ended(key)
        return key

    def confirm(self, seeds, *, validation, test, **config):
        """Record a confirmation with one trial for each seed and each value on test, at sparsity 0.9."""
        for seed, value in zip(seeds, test, strict=True):
            self.trial((0.9, validation), seed=seed, phase="confirm", test=(0.9, value), **config)

    def summary(self, complete=True):
        return summarize(self.state, objective="acc", complete=complete)


def fill(toy):
    """Record a search with a failed trial, and a confirmation of its two arms. On test, sgd + none is the better."""
    toy.trial((0.99, 0.60), lam=1e-6)
    toy.trial((0.98, 0.90), lam=1e-5)
    toy.trial((0.97, 0.80), optimizer="sgd", regularizer="none")
    toy.trial(None, status="diverged", lam=0.1)
    for seed, validation, test in ((1, 0.80, 0.70), (2, 0.90, 0.74), (3, 0.85, 0.72)):
        toy.trial((0.98, validation), lam=1e-5, seed=seed, phase="confirm", test=(0.95, test))
        baseline = {"optimizer": "sgd", "regularizer": "none", "seed": seed, "phase": "confirm"}
        toy.trial((0.97, 0.70), test=(0.99, 0.99), **baseline)


@pytest.fixture
def toy(tmp_path):
    made = ToySweep(tmp_path / "runs" / "toy")
    yield made
    made.recorder.close()
