import io
import pickle
import zipfile

import pytest
import torch

from tests.trainables.runner._runs import ENDED, files, finish, without_seconds
from trainables.result import read_result
from trainables.runner import TrialRunner


@pytest.mark.parametrize("num_evaluations", [1, 2, 3])
def test_resumes_after_a_kill_between_evaluations(start, undisturbed, num_evaluations):
    trial = start()
    reports = [trial.advance() for _ in range(num_evaluations)]
    resumed = start()
    report = resumed.advance()
    assert report["epoch"] == num_evaluations + 1
    assert report["seconds"] > reports[-1]["seconds"]
    assert without_seconds(finish(resumed)) == undisturbed
    assert "result.json" in files(resumed.folder)
    assert not any("checkpoint" in name for name in files(resumed.folder))


def test_resumes_after_a_kill_at_every_evaluation(start, undisturbed):
    while start().advance()["status"] == "running":
        pass
    assert without_seconds(read_result(start().folder)) == undisturbed


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_resumes_after_a_kill_within_an_epoch(config, start, make_task, tmp_path, undisturbed, epoch):
    """The next process repeats the interrupted epoch from its start."""
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
        finish(TrialRunner(config, tmp_path / "trial", lambda: task))
    assert without_seconds(finish(start())) == undisturbed


def test_resumes_after_a_kill_while_the_end_was_written(start, undisturbed, monkeypatch):
    trial = start()
    with monkeypatch.context() as patch:

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr("trainables.pruning.checkpoint.json.dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(trial)
    assert read_result(trial.folder) is None
    (trial.folder / "checkpoint.pt.99.partial").write_bytes(b"half")
    assert without_seconds(finish(start())) == undisturbed
    assert files(trial.folder) == ENDED


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def alter_a_weight(path):
    """Flip one bit of one weight, which torch.load alone does not notice."""
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


def change_the_configuration(path):
    state = torch.load(path, weights_only=True)
    state["training"] = "of another seed"
    torch.save(state, path)


@pytest.mark.parametrize("damage", [truncate, empty, alter_a_weight, alter_the_structure, change_the_configuration])
def test_damaged_checkpoint_falls_back_to_the_previous_one(start, undisturbed, damage):
    trial = start()
    for _ in range(3):
        trial.advance()
    damage(trial.folder / "checkpoint.pt")
    resumed = start()
    assert resumed.advance()["epoch"] == 3  # the previous checkpoint is of epoch 2
    result = without_seconds(finish(resumed))
    (note,) = result["notes"]
    assert note.startswith("checkpoint.pt: could not be read (")
    assert note.endswith("), passed over")
    assert "\n" not in note
    assert {**result, "notes": []} == undisturbed


def test_damaged_checkpoint_never_becomes_the_previous_one(start):
    trial = start()
    for _ in range(2):
        trial.advance()
    (trial.folder / "checkpoint.pt").write_bytes(b"damaged")
    start().advance()  # writes checkpoint.pt of epoch 2 again
    (trial.folder / "checkpoint.pt").write_bytes(b"damaged")
    assert start().advance()["epoch"] == 2


@pytest.mark.parametrize("num_evaluations", [1, 2])
def test_starts_over_if_no_checkpoint_can_be_read(start, undisturbed, num_evaluations):
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


def test_partly_loaded_checkpoint_leaves_no_trace(start, undisturbed):
    """This one fails only after the weights and BatchNorm statistics have been loaded."""
    trial = start()
    trial.advance()
    state = torch.load(trial.folder / "checkpoint.pt", weights_only=True)
    del state["optimizer"]
    torch.save(state, trial.folder / "checkpoint.pt")
    result = without_seconds(finish(start()))
    assert result["notes"] == ["checkpoint.pt: could not be read (KeyError: 'optimizer'), passed over"]
    assert {**result, "notes": []} == undisturbed


class Bomb:
    """Unpickling it creates the file."""

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
def test_pickle_in_place_of_a_checkpoint_is_not_executed(start, undisturbed, plant, tmp_path):
    fuse = tmp_path / "fuse"
    pickle.load(io.BytesIO(pickle.dumps(Bomb(fuse)))).close()
    fuse.unlink()  # the bomb works
    trial = start()
    trial.advance()
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        plant(trial.folder / name, Bomb(fuse))
    result = without_seconds(finish(start()))
    assert not fuse.exists()
    assert {**result, "notes": []} == undisturbed
    assert len(result["notes"]) == 2
