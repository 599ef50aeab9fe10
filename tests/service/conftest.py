import json

import pytest

from service.records.state import Records
from trainables.config import TrialConfig

LEVELS = (0.0, 0.9)
IDENTITY = {"task": "cnn", "architecture": "small_resnet", "dataset": "digits", "criterion": "magnitude", "seed": 0}


def make_config(optimizer="sam", regularizer="wcr", lam=1e-5, rho=0.1, seed=0, **more):
    return TrialConfig(
        dataset="digits",
        architecture="small_resnet",
        optimizer=optimizer,
        opt={"lr": 0.1} | ({"rho": rho} if optimizer != "sgd" else {}),
        regularizer=regularizer,
        lam=0.0 if regularizer == "none" else lam,
        batch_size=8,
        target_sparsity=0.9,
        seed=seed,
        **{"max_epochs": 3, **more},
    )


class Recorder:
    """Records written as a sweep would write them, with results made by hand instead of by training."""

    def __init__(self, folder, identity=None):
        self.records = Records(folder, identity or IDENTITY)
        self.number = 0

    def trial(
        self, accs, *, phase="search", status="finished", test=None, evaluations=1, more=None, marks=None, **config
    ):
        """accs: validation accuracy dense and at 0.9. more: further metrics, the same in every row. marks: further
        entries of the result, such as `collapsed`. Returns the key."""
        more = {"loss": 0.5, **(more or {})}
        made = make_config(read_test=phase == "confirm", **config)
        arm = f"{made.optimizer} + {made.regularizer}"
        self.records.start(made.key, phase=phase, arm=arm, number=self.number, config=made.model_dump(mode="json"))
        self.number += 1
        for epoch in range(1, evaluations + 1):
            self.records.evaluation(
                made.key, {"epoch": epoch, "loss": 1.0 / epoch, "acc_dense": 0.5, "acc_pruned": 0.25}
            )
        report = {
            "epoch": evaluations + 1,
            "seconds": 1.5,
            "loss": 0.1,
            "penalty": 3.0,
            "lr": 0.1,
            "reason": "",
            "status": status,
        }
        if status != "finished":
            report |= {"acc_dense": None, "acc_pruned": None, "reason": "it diverged"}
            result = {"report": report, "notes": [], "config": made.model_dump(mode="json")}
        else:
            report |= {"acc_dense": accs[0], "acc_pruned": accs[1]}
            curve = [{"sparsity": s, "acc": a, **more} for s, a in zip(LEVELS, accs, strict=True)]
            tested = test and [{"sparsity": s, "acc": a, **more} for s, a in zip(LEVELS, test, strict=True)]
            layer = {"name": "stem.weight", "num_weights": 4, "num_kept": 2, "histogram": [0] * 59 + [4]}
            result = {"report": report, "notes": [], "curve": curve, "test": tested, "layers": [layer]}
            result["config"] = made.model_dump(mode="json")
        result |= marks or {}
        folder = self.records.trial_folder(made.key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result))
        if status == "finished":
            (folder / "pruned" / "0.9").mkdir(parents=True)
            (folder / "pruned" / "0.9" / "config.json").write_text("{}")
        self.records.end(made.key)
        return made.key


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "runs" / "toy")
    yield made
    made.records.close()
