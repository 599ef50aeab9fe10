import json

import pytest
import torch

from tests.trainables.runner._runs import CHECKPOINT, ENDED, REPORT, files, finish, without_seconds
from trainables.loop import Training, train
from trainables.pruning import load_pruned
from trainables.result import SIZES, read_result
from trainables.runner import KEEP, TrialRunner

# ---- an undisturbed trial ----------------------------------------------------------------------------------------


def test_trial_reports_each_evaluation(start, tiny):
    trial = start(config=tiny(max_epochs=5, num_evaluations=2))  # after epochs 2.5, rounded to 2, and 5
    reports = [trial.advance()]
    assert files(trial.folder) == ["checkpoint.pt", "owner"]
    reports.append(trial.advance())
    assert [(report["epoch"], report["status"]) for report in reports] == [(2, "running"), (5, "finished")]
    for report in reports:
        assert set(report) == REPORT
        assert all(value is not None for value in report.values())
    assert 0 < reports[0]["seconds"] < reports[1]["seconds"]
    assert files(trial.folder) == ENDED


def without_sizes(row):
    """A row of a curve without the sizes after shrinking, which the training loop does not measure."""
    assert set(SIZES) <= set(row)
    return {name: value for name, value in row.items() if name not in SIZES}


def test_result_equals_that_of_the_plain_loop(start, config, make_task, undisturbed, tmp_path):
    model, evaluation = train(make_task(config), config)
    rows = undisturbed["pruned"][0]["curve"]
    assert [without_sizes(row) for row in rows] == [
        {"sparsity": s, **values} for s, values in evaluation.metrics.items()
    ]
    assert [row["sparsity"] for row in undisturbed["pruned"][0]["curve"]] == [0, 0.25, 0.5, 0.75]
    report = undisturbed["report"]
    assert (report["acc_dense"], report["acc_pruned"]) == tuple(evaluation.metrics[s]["acc"] for s in (0.0, 0.5))
    assert undisturbed["config"] == config.model_dump(mode="json")
    assert undisturbed["notes"] == []
    loaded = load_pruned(tmp_path / "undisturbed" / "pruned" / "0.5")
    for name, weight in loaded.named_parameters():
        dense = dict(model.named_parameters())[name]
        assert torch.equal(weight, dense * (weight != 0)), name


@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete"])
def test_diagnostics_count_closed_gates(start, tiny, make_task, regularizer):
    """They are the zeros among the folded weights; a regularizer without gates reports no number."""
    config = tiny(regularizer=regularizer, lam=1.0, reg={"gate_lr": 10.0}, max_epochs=1)
    task = make_task(config)
    model, _ = train(task, config)
    weights = task.regularized(model).values()
    closed = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert finish(start(config=config))["diagnostics"]["gates_closed"] == closed > 0
    assert "gates_closed" not in finish(start("plain", config=tiny(max_epochs=1)))["diagnostics"]


def test_evaluation_reports_the_pruned_accuracy_of_its_epoch(start, config, make_task):
    training = Training(make_task(config), config)
    trial = start()
    for _ in range(3):
        terms = training.run_epoch()
        report = trial.advance()
        metrics = training.evaluate((0.0, 0.5)).metrics
        assert (report["acc_dense"], report["acc_pruned"]) == (metrics[0.0]["acc"], metrics[0.5]["acc"])
        assert {name: report[name] for name in terms} == terms


@pytest.mark.parametrize("keep", KEEP)
def test_keep_decides_which_checkpoints_are_written(start, config, keep):
    trial = start(keep=keep)
    (trial.folder / "pruned" / "0.5.99.partial").mkdir(parents=True)
    (trial.folder / "pruned" / "0.5.99.partial" / "model.safetensors").write_bytes(b"half")  # left by a killed process
    finish(trial)
    levels = {"target": ["0.5"], "pruned": ["0.5"], "all": ["0", "0.25", "0.5", "0.75"], "none": []}[keep]
    places = [f"pruned/{level}" for level in levels] + ["trained"] * (keep in ("target", "all"))
    expected = [f"{place}/{name}" for place in places for name in CHECKPOINT]
    assert files(trial.folder) == sorted([*expected, "result.json"])
    for level in levels:
        description = json.loads((trial.folder / "pruned" / level / "config.json").read_text())
        assert description["trial"] == config.key
        assert description["target_sparsity"] == float(level)
        assert description["prunable_sparsity"] == pytest.approx(float(level), abs=1 / 500)  # about 300 weights


def test_unknown_keep_is_refused(start):
    with pytest.raises(ValueError, match=r"^keep: must be one of target, all, pruned, none, got 'some'$"):
        start(keep="some")


def test_ended_trial_is_not_computed_again(config, start, undisturbed, tmp_path):
    def never():
        raise AssertionError("computed again")

    again = TrialRunner(config, tmp_path / "undisturbed", never)
    report = again.advance()
    assert report == again.advance()
    assert {**report, "seconds": None} == undisturbed["report"]


@pytest.mark.parametrize("damage", [b"", b'{"report": {"epo'])
def test_damaged_result_is_computed_again(start, undisturbed, tmp_path, damage):
    (tmp_path / "undisturbed" / "result.json").write_bytes(damage)
    assert read_result(tmp_path / "undisturbed") is None
    assert without_seconds(finish(start("undisturbed"))) == undisturbed


# ---- trials that do not finish -----------------------------------------------------------------------------------


def test_divergence_is_recorded(start, tiny):
    trial = start(config=tiny(opt={"lr": 1e15}))
    report = trial.advance()
    assert set(report) == REPORT
    assert report["status"] == "diverged"
    assert report["reason"].startswith("diverged at step")
    assert (report["epoch"], report["loss"], report["acc_pruned"]) == (0, None, None)
    assert files(trial.folder) == ["result.json"]
    text = (trial.folder / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in result.json"))
    assert trial.advance() == report


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (MemoryError(), "out_of_memory", "out of memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"),
            "out_of_memory",
            "CUDA out of memory. Tried",
        ),
        (None, "out_of_memory", "[enforce fail at alloc_cpu"),  # torch's own error, see below
        (RuntimeError("one\ntwo"), "error", "RuntimeError: one"),
        (OSError(28, "No space left on device"), "error", "OSError: [Errno 28] No space left on device"),
    ],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_exception_is_recorded(config, make_task, tmp_path, error, status, reason, epoch):
    task = make_task(config)
    loss, calls = task.loss, []

    def fails(model, batch):
        calls.append(batch)
        if len(calls) > epoch * 8:  # 4 batches per epoch, and SAM needs two gradients
            if error is None:
                torch.empty(10**15)
            raise error
        return loss(model, batch)

    task.loss = fails
    trial = TrialRunner(config, tmp_path / "trial", lambda: task)
    reports = [trial.advance() for _ in range(epoch + 1)]
    report = reports[-1]
    assert set(report) == REPORT
    assert (report["status"], report["epoch"]) == (status, epoch)
    assert report["reason"].startswith(reason)
    result = read_result(trial.folder)
    assert result["report"] == report
    if status == "error":
        assert "in fails\n    raise error" in result["traceback"]
    else:
        assert "\n" not in report["reason"]
    assert files(trial.folder) == ["result.json"]
    assert trial.advance() == report  # it is not tried again


def test_task_that_cannot_be_created_is_recorded(config, tmp_path):
    def fails():
        raise ValueError("digits: must be there")

    report = TrialRunner(config, tmp_path / "trial", fails).advance()
    assert set(report) == REPORT
    assert (report["status"], report["reason"]) == ("error", "ValueError: digits: must be there")


def test_fully_pruned_layers_are_noted(start, tiny, make_task, tmp_path):
    config = tiny(max_epochs=1, target_sparsity=0.9, sparsities=())
    task = make_task(config)
    built = task.build_model

    def shrunken():
        model = built()
        with torch.no_grad():
            model[0].weight *= 1e-9
        return model

    task.build_model = shrunken
    result = finish(
        TrialRunner(tiny(opt={"lr": 0.0}, **{"max_epochs": 1, "target_sparsity": 0.9}), tmp_path / "t", lambda: task)
    )
    assert result["notes"] == [
        "0.weight: all of its 36 weights are pruned at 0.9",
        "collapsed: the dense network predicts the same for every example of the validation split",
    ]


# ---- the test split ----------------------------------------------------------------------------------------------


class Guarded:
    """Images that raise if the test split is read."""

    def __init__(self, images):
        self._images = images

    def __getattr__(self, name):
        if name.startswith("test_"):
            raise AssertionError(f"{name} was read")
        return getattr(self._images, name)


def test_test_split_is_read_only_if_asked_for(tiny, make_task, start, tmp_path):
    def guarded(config):
        task = make_task(config)
        task.data = Guarded(task.data)
        return task

    config = tiny()
    result = finish(TrialRunner(config, tmp_path / "search", lambda: guarded(config)))
    assert result["report"]["status"] == "finished"
    assert result["pruned"][0]["test"] is None
    assert "test" not in json.loads((tmp_path / "search" / "pruned" / "0.5" / "config.json").read_text())

    config = tiny(read_test=True)
    result = finish(TrialRunner(config, tmp_path / "guarded", lambda: guarded(config)))
    assert result["report"]["reason"] == "AssertionError: test_images was read"

    result = finish(start(config=config))
    _, expected = train(make_task(config), config)
    rows = result["pruned"][0]["curve"]
    assert [without_sizes(row) for row in rows] == [{"sparsity": s, **v} for s, v in expected.metrics.items()]
    loaded = load_pruned(tmp_path / "trial" / "pruned" / "0.5")
    measured = make_task(config).evaluate(loaded, "test")
    assert without_sizes(result["pruned"][0]["test"][2]) == {"sparsity": 0.5, **measured}
    described = json.loads((tmp_path / "trial" / "pruned" / "0.5" / "config.json").read_text())
    assert without_sizes(described["test"]) == measured


# ---- hooks of tasks ----------------------------------------------------------------------------------------------


def test_figures_show_the_dense_and_the_pruned_network(start, make_task, config, tmp_path):
    def illustrate(models, folder):
        zeros = {
            level: sum(int((w == 0).sum()) for w in task.prunable(model).values()) for level, model in models.items()
        }
        (folder / "zeros.json").write_text(json.dumps(zeros))

    task = make_task(config)
    task.illustrate = illustrate
    trial = TrialRunner(config, tmp_path / "drawn", lambda: task)
    finish(trial)
    zeros = json.loads((trial.folder / "figures" / "zeros.json").read_text())
    num_weights = sum(w.numel() for w in task.prunable(task.build_model()).values())
    assert zeros == {"0.0": 0, "0.5": round(num_weights / 2)}
    assert not list(trial.folder.glob("*.partial"))


def test_figure_that_fails_costs_a_note(make_task, config, tmp_path):
    def illustrate(models, folder):
        (folder / "half.png").write_text("")
        raise RuntimeError("no font")

    task = make_task(config)
    task.illustrate = illustrate
    result = finish(TrialRunner(config, tmp_path / "drawn", lambda: task))
    assert result["report"]["status"] == "finished"
    assert result["notes"] == ["figures: could not be drawn (RuntimeError: no font)"]
    assert not (tmp_path / "drawn" / "figures").exists()


def test_deployed_network_is_pruned_and_saved(make_task, config, tmp_path):
    """The task merges something into the weights at the end: here it doubles the first layer."""
    task = make_task(config)

    def deployed(model):
        with torch.no_grad():
            next(iter(task.prunable(model).values())).mul_(2)
        return model

    plain = finish(TrialRunner(config, tmp_path / "plain", lambda: make_task(config), keep="all"))
    task.deployed = deployed
    finish(TrialRunner(config, tmp_path / "merged", lambda: task, keep="all"))
    name = plain["layers"][0]["name"]
    weights = [load_pruned(tmp_path / which / "pruned" / "0").state_dict()[name] for which in ("plain", "merged")]
    assert torch.equal(2 * weights[0], weights[1])


# ---- warnings ----------------------------------------------------------------------------------------------------


def test_dominating_penalty_warns(start, tiny, make_task):
    result = finish(start("mild", config=tiny(max_epochs=2, regularizer="wcr", lam=1e-7)))
    ratios = {name: result["diagnostics"][f"penalty_ratio_{name}"] for name in ("start", "end", "max")}
    assert 0 < ratios["start"] <= ratios["max"] < 10
    assert ratios["end"] > 0
    assert result["warnings"] == []
    strong = finish(start("strong", config=tiny(max_epochs=2, regularizer="wcr", lam=10.0, opt={"lr": 1e-9})))
    assert strong["diagnostics"]["penalty_ratio_max"] > 1e3
    warning = strong["warnings"][0]  # the second one says that the untrained network predicts one class
    assert warning in strong["notes"]
    assert warning.startswith("penalty: its gradient reached ")
    assert finish(start("none", config=tiny(max_epochs=2)))["diagnostics"].keys() == {"loss_gap"}


def test_diverged_trial_has_penalty_ratios(start, tiny):
    config = tiny(regularizer="wcr", lam=1e12, opt={"lr": 1e12})
    result = finish(start(config=config))
    assert result["report"]["status"] == "diverged"
    assert result["diagnostics"]["penalty_ratio_max"] > 10
    assert len(result["warnings"]) == 1


class Biased(torch.nn.Module):
    """The network with a bias that makes one class always win."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images)
        return logits + 1e6 * torch.nn.functional.one_hot(torch.tensor(3), logits.shape[1])


def test_constant_network_is_marked_as_collapsed(tiny, make_task, tmp_path):
    config = tiny(max_epochs=1)
    task = make_task(config)
    build = task.build_model
    task.build_model = lambda: Biased(build())
    result = finish(TrialRunner(config, tmp_path / "t", lambda: task))
    (warning,) = result["warnings"]
    assert warning == "collapsed: the dense network predicts the same for every example of the validation split"
    assert [row["collapsed"] for row in result["pruned"][0]["curve"]] == [1.0] * 4
    assert finish(TrialRunner(tiny(), tmp_path / "u", lambda: make_task(tiny())))["warnings"] == []
