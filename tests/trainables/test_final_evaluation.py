"""A trial that has ended is asked for other pruning methods, sparsities and targets: nothing is trained again."""

import json
import shutil

import pytest
import torch

from tests.trainables._tiny_tasks import equal_states, make_tiny_task, tiny_config
from trainables.loop import Training
from trainables.pruning import TrainedNetwork, evaluate_pruned, evaluation, load_pruned, load_trained
from trainables.pruning_method import PruningMethod
from trainables.result import Status, read_result
from trainables.runner import TrialRunner

CHECKPOINT = ("config.json", "model.safetensors")


@pytest.fixture
def start(make_task, tmp_path):
    """A function: a new runner of the trial in the folder `name`, as in a new process."""
    return lambda name="trial", *, config, **more: TrialRunner(
        config, tmp_path / name, lambda: make_task(config), **more
    )


def finish(trial):
    while trial.advance()["status"] == "running":
        pass
    return read_result(trial.folder)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def never():
    raise AssertionError("trained again")


def entries(result):
    return {entry["label"]: entry for entry in result["pruned"]}


def test_network_that_cannot_be_traced_is_measured_without_its_size(start, tiny, monkeypatch):
    def fail(*_):
        raise ValueError("shrink: not traceable")

    monkeypatch.setattr("trainables.final_evaluation.shrunk_sizes", fail)
    result = finish(start(config=tiny(max_epochs=1)))
    assert result["report"]["status"] == Status.FINISHED
    assert result["notes"] == ["macs: could not be counted after shrinking (ValueError: shrink: not traceable)"]
    assert "macs" not in result["pruned"][0]["curve"][0]


def test_sizes_can_be_left_out(start, tiny, monkeypatch):
    monkeypatch.setattr("trainables.final_evaluation.shrunk_sizes", never)
    result = finish(start(config=tiny(max_epochs=1), sizes=False))
    assert result["report"]["status"] == Status.FINISHED
    assert (result["notes"], "macs" in result["pruned"][0]["curve"][0]) == ([], False)


METHODS = {
    "compensation global": PruningMethod(criterion="compensation"),
    "magnitude uniform min_kept=2": PruningMethod(scope="uniform", min_kept=2),
    "snip 2:4": PruningMethod(criterion="snip", scope="2:4"),
    "random global": PruningMethod(criterion="random"),
    "magnitude global recalibrated": PruningMethod(recalibrate=True),
}


@pytest.mark.parametrize("label", METHODS)
def test_pruning_a_kept_network_equals_training_again_for_it(tiny, make_task, tmp_path, monkeypatch, label):
    """Bit for bit: every metric at every sparsity, on validation and test, and the pruned weights."""
    fields = {"max_epochs": 2, "read_test": True, "regularizer": "wcr", "lam": 1e-4, "optimizer": "sam"}
    config, method = tiny(**fields), METHODS[label]
    assert method.label == label
    finish(TrialRunner(config, tmp_path / "kept", lambda: make_task(config)))
    wanted = tiny(**fields, more_pruning=(method,))
    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", lambda self: never())
        result = finish(TrialRunner(wanted, tmp_path / "kept", lambda: make_task(wanted), keep="all"))
    again = wanted.pruned_by(method)
    trained = finish(TrialRunner(again, tmp_path / "again", lambda: make_task(again), keep="all"))
    (expected,) = trained["pruned"]
    assert entries(result)[label] == expected
    assert expected["test"] is not None
    assert [entry["label"] for entry in result["pruned"]] == ["magnitude global", label]
    for level in (row["sparsity"] for row in expected["curve"]):
        folder = tmp_path / "kept" / "pruned" / label.replace(" ", "_") / f"{level:g}"
        ours, theirs = (load_pruned(path) for path in (folder, tmp_path / "again" / "pruned" / f"{level:g}"))
        assert equal_states(ours, theirs)


@pytest.mark.parametrize("label", METHODS)
def test_the_test_split_is_read_by_the_same_pruned_networks(start, tiny, make_task, label):
    """Their numbers are those of pruning anew for the test split."""
    config = tiny(max_epochs=1, read_test=True).pruned_by(METHODS[label])
    trial = start(config=config)
    (entry,) = finish(trial)["pruned"]
    task = make_task(config)
    trained, _ = load_trained(trial.folder / "trained", task, config)
    expected = evaluate_pruned(task, trained.network, config, config.levels, "test").metrics
    assert {row["sparsity"]: row for row in entry["test"]}.keys() == expected.keys()
    for row in entry["test"]:
        assert expected[row["sparsity"]].items() <= row.items()


def test_only_what_is_missing_is_evaluated(start, tiny, monkeypatch):
    plain = finish(start(config=tiny(max_epochs=1)))
    evaluated = []
    measure = evaluation.measure
    monkeypatch.setattr(evaluation, "measure", lambda *a: evaluated.append(a[2].criterion) or measure(*a))
    more = tiny(max_epochs=1, sparsities=(0.25, 0.6, 0.75), more_pruning=(METHODS["random global"],))
    result = finish(start(config=more))
    assert evaluated == ["magnitude", *["random"] * 5]  # 0.6 by magnitude; 0 and four sparsities at random
    assert [row["sparsity"] for row in entries(result)["magnitude global"]["curve"]] == [0, 0.25, 0.5, 0.6, 0.75]
    assert entries(result)["magnitude global"]["curve"][:3] == plain["pruned"][0]["curve"][:3]
    assert result["layers"] == plain["layers"]
    finish(start(config=more))
    assert len(evaluated) == 6


def test_another_target_or_first_method_replaces_report_and_checkpoint(start, tiny):
    folder = finish_in(start, tiny(max_epochs=1))
    first = read_result(folder)
    config = tiny(max_epochs=1, target_sparsity=0.75, sparsities=(0.25, 0.5), criterion="random")
    result = finish(start(config=config))
    rows = {row["sparsity"]: row for row in entries(result)["random global"]["curve"]}
    assert result["report"]["acc_pruned"] == rows[0.75]["acc"]
    assert files(folder / "pruned") == [f"0.75/{name}" for name in CHECKPOINT]
    assert json.loads((folder / "pruned" / "0.75" / "config.json").read_text())["pruning"]["criterion"] == "random"
    assert entries(result)["magnitude global"] == first["pruned"][0]
    assert result["layers"] != first["layers"]


def finish_in(start, config, **more):
    trial = start(config=config, **more)
    finish(trial)
    return trial.folder


def test_without_its_trained_weights_a_trial_is_trained_again(start, tiny):
    folder = finish_in(start, tiny(max_epochs=1), keep="none")
    assert files(folder) == ["result.json"]
    first = read_result(folder)
    result = finish(start(config=tiny(max_epochs=1, more_pruning=(METHODS["random global"],)), keep="none"))
    assert result["pruned"][0] == first["pruned"][0]
    assert result["pruned"][1]["label"] == "random global"


def test_damaged_trained_weights_are_trained_again(start, tiny):
    folder = finish_in(start, tiny(max_epochs=1))
    first = read_result(folder)
    path = folder / "trained" / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = finish(start(config=tiny(max_epochs=1, more_pruning=(METHODS["random global"],))))
    assert result["pruned"][0] == first["pruned"][0]
    (note,) = result["notes"]
    assert note.startswith("trained: could not be read (")


@pytest.mark.parametrize("damage", ["cut off", "removed"])
def test_pruning_alone_never_trains(start, tiny, monkeypatch, damage):
    trial = start(config=tiny())
    result = finish(trial)
    weights = trial.folder / "trained" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    if damage == "removed":
        shutil.rmtree(weights.parent)
    monkeypatch.setattr(Training, "run_epoch", never)
    report = start(config=tiny(more_pruning=({"criterion": "snip"},)), train=False).advance()
    assert report["status"] == "error"
    assert report["reason"].startswith("FileNotFoundError: trained: the trained weights cannot be read (")
    assert report["reason"].endswith("; nothing is trained")
    assert read_result(trial.folder) == result


def test_only_a_trials_own_files_are_storage(start, tiny, monkeypatch):
    """A criterion that cannot read the data does not stop the sweep as a full disk does."""

    def unreadable(*args, **more):
        raise OSError(5, "Input/output error", "train.npz")

    monkeypatch.setattr(TrainedNetwork, "evaluate", unreadable)
    trial = start(config=tiny())
    while (report := trial.advance())["status"] == "running":
        pass
    assert (report["status"], "train.npz" in report["reason"]) == ("error", True)


def test_a_kill_during_the_final_evaluation_repeats_no_training(start, tiny, monkeypatch):
    undisturbed = finish(start("undisturbed", config=tiny(max_epochs=2)))
    trial = start(config=tiny(max_epochs=2))
    with monkeypatch.context() as patch:
        patch.setattr("trainables.runner.FinalEvaluation.run", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(trial)
    monkeypatch.setattr(Training, "run_epoch", lambda self: never())
    result = finish(start(config=tiny(max_epochs=2)))
    for name in ("pruned", "layers", "diagnostics", "notes"):
        assert result[name] == undisturbed[name]


def test_a_failing_method_leaves_the_result_as_it_was(start, tiny, monkeypatch):
    folder = finish_in(start, tiny(max_epochs=1))
    before = (folder / "result.json").read_text()
    monkeypatch.setattr(evaluation, "score", lambda *a: never())
    report = start(config=tiny(max_epochs=1, more_pruning=(METHODS["random global"],))).advance()
    assert (report["status"], report["reason"]) == (Status.ERROR, "AssertionError: trained again")
    assert (folder / "result.json").read_text() == before


@pytest.mark.parametrize(
    "architecture", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("unet", "causal_lm"))]
)
def test_a_kept_network_of_every_task_is_evaluated_as_trained(tmp_path, monkeypatch, architecture):
    config = tiny_config(architecture, max_epochs=1)
    finish(TrialRunner(config, tmp_path / "kept", lambda: make_tiny_task(config)))
    wanted = tiny_config(architecture, max_epochs=1, more_pruning=(PruningMethod(criterion="snip", scope="uniform"),))
    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", lambda self: never())
        result = finish(TrialRunner(wanted, tmp_path / "kept", lambda: make_tiny_task(wanted)))
    again = wanted.pruned_by(wanted.more_pruning[0])
    trained = finish(TrialRunner(again, tmp_path / "again", lambda: make_tiny_task(again)))
    assert result["pruned"][1:] == trained["pruned"]
    dense = load_pruned(tmp_path / "kept" / "trained")
    assert all(weight.dtype == torch.float32 for weight in dense.parameters())


def test_another_first_method_keeps_the_checkpoints_of_all(start, tiny):
    more = {"max_epochs": 1, "sparsities": (), "more_pruning": (METHODS["random global"],)}
    finish(start(config=tiny(**more), keep="all"))
    swapped = {**more, "criterion": "random", "more_pruning": (PruningMethod(),)}
    folder = finish_in(start, tiny(**swapped), keep="all")
    places = [
        f"{place}{level}/{name}" for place in ("", "magnitude_global/") for level in ("0", "0.5") for name in CHECKPOINT
    ]
    assert files(folder / "pruned") == sorted(places)
    kept = json.loads((folder / "pruned" / "magnitude_global" / "0.5" / "config.json").read_text())
    assert kept["pruning"]["criterion"] == "magnitude"


@pytest.mark.parametrize(("scope", "level", "width"), [("4:5", 0.2, 5), ("1:3", 0.6666666667, 3), ("7:10", 0.3, 10)])
def test_a_first_scope_of_n_to_m_is_evaluated_at_the_sparsity_as_given(start, tiny, scope, level, width):
    fields = {"scope": scope, "target_sparsity": level, "sparsities": (), "model": {"width": width, "depth": 1}}
    result = finish(start(config=tiny(max_epochs=1, **fields)))
    assert result["report"]["status"] == "finished", result["report"]
    assert [row["sparsity"] for row in result["pruned"][0]["curve"]] == [0, level]
