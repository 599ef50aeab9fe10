"""What the tests of a trial's runner share."""

from trainables.result import read_result

CHECKPOINT = ("config.json", "model.safetensors")
ENDED = [*(f"{place}/{name}" for place in ("pruned/0.5", "trained") for name in CHECKPOINT)]
ENDED.insert(2, "result.json")
REPORT = {"epoch", "loss", "penalty", "lr", "acc_dense", "acc_pruned", "seconds", "status", "reason"}


def finish(trial):
    while trial.advance()["status"] == "running":
        pass
    return read_result(trial.folder)


def without_seconds(result):
    evaluations = [{**evaluation, "seconds": None} for evaluation in result["evaluations"]]
    return {**result, "report": {**result["report"], "seconds": None}, "evaluations": evaluations}


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
