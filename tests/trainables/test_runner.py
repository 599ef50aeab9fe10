import errno
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from trainables import runner as resumable
from trainables.loop import Training, collapse, train
from trainables.pruning import load_pruned
from trainables.runner import (
    KEEP,
    ResumableTrial,
    StorageError,
    SupersededError,
    read_result,
    write_atomically,
)

REPORT = {"epoch", "loss", "penalty", "lr", "acc_dense", "acc_pruned", "seconds", "status", "reason"}


@pytest.fixture
def config(tiny):
    return tiny(
        max_epochs=4, num_evaluations=4, optimizer="sam", regularizer="hoyer_square", lam=1e-4, lr_schedule="one_cycle"
    )


@pytest.fixture
def start(config, make_task, tmp_path):
    """A function: a trial in the folder `name`, anew each time, as after a kill."""
    return lambda name="trial", config=config, **more: ResumableTrial(
        config, tmp_path / name, lambda: make_task(config), **more
    )


def finish(trial):
    while trial.advance()["status"] == "running":
        pass
    return read_result(trial.folder)


def without_seconds(result):
    evaluations = [{**evaluation, "seconds": None} for evaluation in result["evaluations"]]
    return {**result, "report": {**result["report"], "seconds": None}, "evaluations": evaluations}


@pytest.fixture
def undisturbed(start):
    return without_seconds(finish(start("undisturbed")))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- an undisturbed trial ----------------------------------------------------------------------------------------


def test_a_trial_reports_each_evaluation(start, tiny):
    trial = start(config=tiny(max_epochs=5, num_evaluations=2))  # 2.5, to the even one, and 5
    reports = [trial.advance()]
    assert files(trial.folder) == ["checkpoint.pt", "owner"]
    reports.append(trial.advance())
    assert [(report["epoch"], report["status"]) for report in reports] == [(2, "running"), (5, "finished")]
    for report in reports:
        assert set(report) == REPORT
        assert all(value is not None for value in report.values())
    assert 0 < reports[0]["seconds"] < reports[1]["seconds"]
    assert files(trial.folder) == ["pruned/0.5/config.json", "pruned/0.5/model.safetensors", "result.json"]


def test_result_is_that_of_the_plain_loop(start, config, make_task, undisturbed, tmp_path):
    model, evaluation = train(make_task(config), config)
    assert undisturbed["curve"] == [{"sparsity": s, **values} for s, values in evaluation.metrics.items()]
    assert [row["sparsity"] for row in undisturbed["curve"]] == [0, 0.25, 0.5, 0.75]
    report = undisturbed["report"]
    assert (report["acc_dense"], report["acc_pruned"]) == tuple(evaluation.metrics[s]["acc"] for s in (0.0, 0.5))
    assert undisturbed["config"] == config.model_dump(mode="json")
    assert undisturbed["notes"] == []
    loaded = load_pruned(tmp_path / "undisturbed" / "pruned" / "0.5")
    for name, weight in loaded.named_parameters():
        dense = dict(model.named_parameters())[name]
        assert torch.equal(weight, dense * (weight != 0)), name


@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete"])
def test_closed_gates_are_in_the_diagnostics(start, tiny, make_task, regularizer):
    """As many as the folded weights have zeros; a regularizer without gates reports none."""
    config = tiny(regularizer=regularizer, lam=1.0, reg={"gate_lr": 10.0}, max_epochs=1)
    task = make_task(config)
    model, _ = train(task, config)
    weights = task.regularized(model).values()
    closed = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert finish(start(config=config))["diagnostics"]["gates_closed"] == closed > 0
    assert "gates_closed" not in finish(start("plain", config=tiny(max_epochs=1)))["diagnostics"]


def test_evaluations_report_the_pruned_accuracy_at_that_epoch(start, config, make_task):
    training = Training(make_task(config), config)
    trial = start()
    for _ in range(3):
        terms = training.run_epoch()
        report = trial.advance()
        metrics = training.evaluate((0.0, 0.5)).metrics
        assert (report["acc_dense"], report["acc_pruned"]) == (metrics[0.0]["acc"], metrics[0.5]["acc"])
        assert {name: report[name] for name in terms} == terms


@pytest.mark.parametrize("keep", KEEP)
def test_keep(start, config, keep):
    trial = start(keep=keep)
    (trial.folder / "pruned" / "0.5.99.partial").mkdir(parents=True)
    (trial.folder / "pruned" / "0.5.99.partial" / "model.safetensors").write_bytes(b"half")  # of a killed process
    finish(trial)
    levels = {"target": ["0.5"], "all": ["0", "0.25", "0.5", "0.75"], "none": []}[keep]
    names = ("config.json", "model.safetensors")
    expected = [f"pruned/{level}/{name}" for level in levels for name in names]
    assert files(trial.folder) == sorted([*expected, "result.json"])
    for level in levels:
        description = json.loads((trial.folder / "pruned" / level / "config.json").read_text())
        assert description["trial"] == config.key
        assert description["target_sparsity"] == float(level)
        assert description["prunable_sparsity"] == pytest.approx(float(level), abs=1 / 500)  # of some 300 weights


def test_unknown_keep(start):
    with pytest.raises(ValueError, match=r"^keep: must be one of target, all, none, got 'some'$"):
        start(keep="some")


def test_a_trial_that_is_done_is_not_computed_again(config, start, undisturbed, tmp_path):
    def never():
        raise AssertionError("computed again")

    again = ResumableTrial(config, tmp_path / "undisturbed", never)
    report = again.advance()
    assert report == again.advance()
    assert {**report, "seconds": None} == undisturbed["report"]


@pytest.mark.parametrize("damage", [b"", b'{"report": {"epo'])
def test_a_damaged_result_is_computed_again(start, undisturbed, tmp_path, damage):
    (tmp_path / "undisturbed" / "result.json").write_bytes(damage)
    assert read_result(tmp_path / "undisturbed") is None
    assert without_seconds(finish(start("undisturbed"))) == undisturbed


# ---- killed and resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_evaluations", [1, 2, 3])
def test_killed_between_evaluations(start, undisturbed, num_evaluations):
    trial = start()
    reports = [trial.advance() for _ in range(num_evaluations)]
    resumed = start()
    report = resumed.advance()
    assert report["epoch"] == num_evaluations + 1
    assert report["seconds"] > reports[-1]["seconds"]
    assert without_seconds(finish(resumed)) == undisturbed
    assert "result.json" in files(resumed.folder)
    assert not any("checkpoint" in name for name in files(resumed.folder))


def test_killed_after_every_evaluation(start, undisturbed):
    while start().advance()["status"] == "running":
        pass
    assert without_seconds(read_result(start().folder)) == undisturbed


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_killed_within_an_epoch(config, start, make_task, tmp_path, undisturbed, epoch):
    """After some steps of an epoch; the next process starts that epoch afresh."""
    task = make_task(config)
    num_batches, served = [], task.batches

    def killed(split, *args, **kwargs):
        for batch in served(split, *args, **kwargs):
            num_batches.append(split)
            if num_batches.count("train") == 4 * epoch + 3:
                raise KeyboardInterrupt
            yield batch

    task.batches = killed
    with pytest.raises(KeyboardInterrupt):
        finish(ResumableTrial(config, tmp_path / "trial", lambda: task))
    assert without_seconds(finish(start())) == undisturbed


def test_killed_while_it_wrote_its_end(start, undisturbed, monkeypatch):
    trial = start()
    with monkeypatch.context() as patch:

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr("trainables.pruning.json.dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(trial)
    assert read_result(trial.folder) is None
    (trial.folder / "checkpoint.pt.99.partial").write_bytes(b"half")
    assert without_seconds(finish(start())) == undisturbed
    assert files(trial.folder) == ["pruned/0.5/config.json", "pruned/0.5/model.safetensors", "result.json"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def alter_a_weight(path):
    """One bit of one weight: torch.load alone would take it."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda entry: entry.file_size * ("/data/" in entry.filename))
        value = file.read(largest)
    place = content.index(value) + len(value) // 2
    content[place] ^= 1
    path.write_bytes(bytes(content))
    torch.load(path, weights_only=True)


def alter_the_structure(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"optimizer")] ^= 1
    path.write_bytes(bytes(content))


def of_another_configuration(path):
    state = torch.load(path, weights_only=True)
    state["config"]["seed"] = 1
    torch.save(state, path)


@pytest.mark.parametrize("damage", [truncate, empty, alter_a_weight, alter_the_structure, of_another_configuration])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(start, undisturbed, damage):
    trial = start()
    for _ in range(3):
        trial.advance()
    damage(trial.folder / "checkpoint.pt")
    resumed = start()
    assert resumed.advance()["epoch"] == 3  # the previous one is of epoch 2
    result = without_seconds(finish(resumed))
    (note,) = result["notes"]
    assert note.startswith("checkpoint.pt: could not be read (")
    assert note.endswith("), passed over")
    assert "\n" not in note
    assert {**result, "notes": []} == undisturbed


def test_the_previous_checkpoint_outlives_a_damaged_one(start):
    """The next checkpoint is not to put the damaged one in its place."""
    trial = start()
    for _ in range(2):
        trial.advance()
    (trial.folder / "checkpoint.pt").write_bytes(b"damaged")
    start().advance()  # writes checkpoint.pt of epoch 2 again
    (trial.folder / "checkpoint.pt").write_bytes(b"damaged")
    assert start().advance()["epoch"] == 2


@pytest.mark.parametrize("num_evaluations", [1, 2])
def test_where_no_checkpoint_can_be_read_it_starts_over(start, undisturbed, num_evaluations):
    trial = start()
    for _ in range(num_evaluations):
        trial.advance()
    damaged = sorted(trial.folder.glob("checkpoint*"))
    assert len(damaged) == num_evaluations
    for path in damaged:
        truncate(path)
    resumed = start()
    assert resumed.advance()["epoch"] == 1
    result = without_seconds(finish(resumed))
    assert len(result["notes"]) == num_evaluations
    assert {**result, "notes": []} == undisturbed


def test_what_a_broken_checkpoint_loaded_is_forgotten(start, undisturbed):
    """It fails only after the trained weights and statistics were taken over."""
    trial = start()
    trial.advance()
    state = torch.load(trial.folder / "checkpoint.pt", weights_only=True)
    del state["optimizer"]
    torch.save(state, trial.folder / "checkpoint.pt")
    result = without_seconds(finish(start()))
    assert result["notes"] == ["checkpoint.pt: could not be read (KeyError: 'optimizer'), passed over"]
    assert {**result, "notes": []} == undisturbed


class Bomb:
    """Whoever unpickles it creates the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def plain_pickle(path, bomb):
    path.write_bytes(pickle.dumps(bomb))


def torch_file(path, bomb):
    torch.save({"model": bomb}, path)


def old_torch_file(path, bomb):
    torch.save({"model": bomb}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("plant", [plain_pickle, torch_file, old_torch_file])
def test_a_planted_pickle_is_never_executed(start, undisturbed, plant, tmp_path):
    fuse = tmp_path / "fuse"
    pickle.load(io.BytesIO(pickle.dumps(Bomb(fuse)))).close()
    fuse.unlink()  # it works; now where we would read it
    trial = start()
    trial.advance()
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        plant(trial.folder / name, Bomb(fuse))
    result = without_seconds(finish(start()))
    assert not fuse.exists()
    assert {**result, "notes": []} == undisturbed
    assert len(result["notes"]) == 2


# ---- other ends --------------------------------------------------------------------------------------------------


def test_divergence_is_an_outcome(start, tiny):
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
        (None, "out_of_memory", "[enforce fail at alloc_cpu"),  # torch's own, below
        (RuntimeError("one\ntwo"), "error", "RuntimeError: one"),
        (OSError(28, "No space left on device"), "error", "OSError: [Errno 28] No space left on device"),
    ],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_an_exception_is_recorded(config, make_task, tmp_path, error, status, reason, epoch):
    task = make_task(config)
    loss, calls = task.loss, []

    def fails(model, batch):
        calls.append(batch)
        if len(calls) > epoch * 8:  # 4 batches an epoch, SAM's two gradients
            if error is None:
                torch.empty(10**15)
            raise error
        return loss(model, batch)

    task.loss = fails
    trial = ResumableTrial(config, tmp_path / "trial", lambda: task)
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
    assert trial.advance() == report  # and not tried again


def test_a_task_that_cannot_be_made(config, tmp_path):
    def fails():
        raise ValueError("digits: must be there")

    report = ResumableTrial(config, tmp_path / "trial", fails).advance()
    assert set(report) == REPORT
    assert (report["status"], report["reason"]) == ("error", "ValueError: digits: must be there")


def test_layers_that_vanish_are_noted(start, tiny, make_task, tmp_path):
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
        ResumableTrial(tiny(opt={"lr": 0.0}, **{"max_epochs": 1, "target_sparsity": 0.9}), tmp_path / "t", lambda: task)
    )
    assert result["notes"] == [
        "0.weight: all of its 36 weights are pruned at 0.9",
        "collapsed: the dense network predicts the same for every example of the validation split",
    ]


# ---- the test split ----------------------------------------------------------------------------------------------


class Guarded:
    """Images whose test split raises."""

    def __init__(self, images):
        self._images = images

    def __getattr__(self, name):
        if name.startswith("test_"):
            raise AssertionError(f"{name} was read")
        return getattr(self._images, name)


def test_the_test_split_is_not_touched_unless_asked_for(tiny, make_task, start, tmp_path):
    def guarded(config):
        task = make_task(config)
        task.data = Guarded(task.data)
        return task

    config = tiny()
    result = finish(ResumableTrial(config, tmp_path / "search", lambda: guarded(config)))
    assert result["report"]["status"] == "finished"
    assert result["test"] is None
    assert "test" not in json.loads((tmp_path / "search" / "pruned" / "0.5" / "config.json").read_text())

    config = tiny(read_test=True)
    result = finish(ResumableTrial(config, tmp_path / "guarded", lambda: guarded(config)))
    assert result["report"]["reason"] == "AssertionError: test_images was read"

    result = finish(start(config=config))
    _, expected = train(make_task(config), config)
    assert result["curve"] == [{"sparsity": s, **values} for s, values in expected.metrics.items()]
    loaded = load_pruned(tmp_path / "trial" / "pruned" / "0.5")
    measured = make_task(config).evaluate(loaded, "test")
    assert result["test"][2] == {"sparsity": 0.5, **measured}
    assert json.loads((tmp_path / "trial" / "pruned" / "0.5" / "config.json").read_text())["test"] == measured


def test_write_atomically_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, lambda partial: partial.write_text("old"))

    def fails(partial):
        partial.write_text("ne")
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        write_atomically(path, fails)
    assert path.read_text() == "old"
    write_atomically(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new"
    assert files(tmp_path) == ["new/file"]


# ---- what a task adds ----------------------------------------------------------------------------------------------


def test_figures_of_the_task_are_drawn_from_the_dense_and_the_pruned_network(start, make_task, config, tmp_path):
    def illustrate(models, folder):
        zeros = {
            level: sum(int((w == 0).sum()) for w in task.prunable(model).values()) for level, model in models.items()
        }
        (folder / "zeros.json").write_text(json.dumps(zeros))

    task = make_task(config)
    task.illustrate = illustrate
    trial = ResumableTrial(config, tmp_path / "drawn", lambda: task)
    finish(trial)
    zeros = json.loads((trial.folder / "figures" / "zeros.json").read_text())
    num_weights = sum(w.numel() for w in task.prunable(task.build_model()).values())
    assert zeros == {"0.0": 0, "0.5": round(num_weights / 2)}
    assert not list(trial.folder.glob("*.partial"))


def test_a_figure_that_cannot_be_drawn_costs_a_note(make_task, config, tmp_path):
    def illustrate(models, folder):
        (folder / "half.png").write_text("")
        raise RuntimeError("no font")

    task = make_task(config)
    task.illustrate = illustrate
    result = finish(ResumableTrial(config, tmp_path / "drawn", lambda: task))
    assert result["report"]["status"] == "finished"
    assert result["notes"] == ["figures: could not be drawn (RuntimeError: no font)"]
    assert not (tmp_path / "drawn" / "figures").exists()


def test_what_is_pruned_and_saved_is_the_network_as_it_is_deployed(make_task, config, tmp_path):
    """A task that merges something into the weights at the end: here, doubles the first layer."""
    task = make_task(config)

    def deployed(model):
        with torch.no_grad():
            next(iter(task.prunable(model).values())).mul_(2)
        return model

    plain = finish(ResumableTrial(config, tmp_path / "plain", lambda: make_task(config), keep="all"))
    task.deployed = deployed
    finish(ResumableTrial(config, tmp_path / "merged", lambda: task, keep="all"))
    name = plain["layers"][0]["name"]
    weights = [load_pruned(tmp_path / which / "pruned" / "0").state_dict()[name] for which in ("plain", "merged")]
    assert torch.equal(2 * weights[0], weights[1])


# ---- faults of the place -------------------------------------------------------------------------------------------


def test_a_trial_that_another_process_took_over_stops_and_spoils_nothing(start, undisturbed):
    parted = start()
    parted.advance()
    replacement = start()
    replacement.advance()
    with pytest.raises(SupersededError, match="another process goes on with it"):
        finish(parted)
    assert without_seconds(finish(replacement)) == undisturbed
    assert parted.advance()["status"] == "finished"  # what the other has left


def full_disk(monkeypatch, name):
    """os.replace finds no room for files of this name."""
    replace = resumable.os.replace

    def refuse(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(resumable.os, "replace", refuse)


def test_a_checkpoint_that_cannot_be_written_costs_a_note_not_the_trial(start, undisturbed, monkeypatch):
    full_disk(monkeypatch, "checkpoint.pt")
    result = without_seconds(finish(start()))
    assert [note.split(" (")[0] for note in result["notes"]] == [
        f"epoch {epoch}: no checkpoint was written" for epoch in (1, 2, 3)
    ]
    assert "No space left on device" in result["notes"][0]
    assert {**result, "notes": []} == undisturbed


def test_a_result_that_cannot_be_written_is_no_outcome_and_is_made_up_for_later(start, undisturbed, monkeypatch):
    trial = start()
    with monkeypatch.context() as patch:
        full_disk(patch, "result.json")
        with pytest.raises(StorageError, match=r"cannot be written: .*No space left on device"):
            finish(trial)
    assert read_result(trial.folder) is None
    assert without_seconds(finish(start())) == undisturbed


# ---- what makes its numbers doubtful -----------------------------------------------------------------------------


def test_a_penalty_that_takes_over_is_noted_and_the_ratios_are_recorded(start, tiny, make_task):
    result = finish(start("mild", config=tiny(max_epochs=2, regularizer="wcr", lam=1e-7)))
    ratios = {name: result["diagnostics"][f"penalty_ratio_{name}"] for name in ("start", "end", "max")}
    assert 0 < ratios["start"] <= ratios["max"] < 10
    assert ratios["end"] > 0
    assert result["warnings"] == []
    strong = finish(start("strong", config=tiny(max_epochs=2, regularizer="wcr", lam=10.0, opt={"lr": 1e-9})))
    assert strong["diagnostics"]["penalty_ratio_max"] > 1e3
    warning = strong["warnings"][-1]  # after the one of the untrained network being constant
    assert warning in strong["notes"]
    assert warning.startswith("penalty: its gradient reached ")
    assert finish(start("none", config=tiny(max_epochs=2)))["diagnostics"].keys() == {"loss_gap"}


def test_a_diverged_trial_has_its_ratios_too(start, tiny):
    config = tiny(regularizer="wcr", lam=1e12, opt={"lr": 1e12})
    result = finish(start(config=config))
    assert result["report"]["status"] == "diverged"
    assert result["diagnostics"]["penalty_ratio_max"] > 10
    assert len(result["warnings"]) == 1


class Biased(torch.nn.Module):
    """The network with a bias so large that one class always wins."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images)
        return logits + 1e6 * torch.nn.functional.one_hot(torch.tensor(3), logits.shape[1])


def test_a_trial_whose_network_is_constant_is_marked_as_collapsed(tiny, make_task, tmp_path):
    config = tiny(max_epochs=1)
    task = make_task(config)
    build = task.build_model
    task.build_model = lambda: Biased(build())
    result = finish(ResumableTrial(config, tmp_path / "t", lambda: task))
    assert (result["collapsed"], result["collapsed_from"]) == (True, 0.0)
    (warning,) = result["warnings"]
    assert warning == "collapsed: the dense network predicts the same for every example of the validation split"
    assert [row["collapsed"] for row in result["curve"]] == [1.0] * 4
    assert (undisturbed := finish(ResumableTrial(tiny(), tmp_path / "u", lambda: make_task(tiny()))))["warnings"] == []
    assert undisturbed["collapsed"] is False


@pytest.mark.parametrize(
    ("collapsed_at", "expected"),
    [
        ((), (False, None)),
        ((0.75,), (False, 0.75)),  # beyond the target
        ((0.5, 0.75), (True, 0.5)),
        ((0.5,), (True, None)),  # sparser, it is not
        ((0.0,), (True, None)),
        ((0.25, 0.75), (False, 0.75)),
        ((0.0, 0.25, 0.5, 0.75), (True, 0.0)),
    ],
)
def test_from_which_sparsity_on_it_is_collapsed(tiny, collapsed_at, expected):
    metrics = {level: {"collapsed": float(level in collapsed_at)} for level in (0.75, 0.0, 0.5, 0.25)}
    assert tuple(collapse(tiny(), metrics).values()) == expected
