"""A sweep is packed, unpacked elsewhere, and its trials are trained again there."""

import json
import subprocess
import tarfile

import pytest
from typer.testing import CliRunner

from service.commands import app
from service.records.bundle import CODE_DIFF, bundle, save_code_diff
from service.records.recorder import Recorder
from service.records.state import State
from tests.service._sweeps import make
from trainables.config import TrialConfig
from trainables.data.fingerprint import fingerprint
from trainables.loop import load_task
from trainables.runner import TrialRunner
from trainables.tasks.cnn import CNN


@pytest.fixture
def trained(tmp_path):
    """A sweep with one real trial, which was also pruned in another way since."""
    folder = tmp_path / "runs" / "tiny"
    sweep = make(target_sparsity=0.5)
    fields = {"model": {"width": 4, "depth": 1}, "train_size": 128, "max_epochs": 2, "batch_size": 32, "seed": 3}
    fields |= {"regularizer": "wcr", "lam": 1e-5, "num_evaluations": 2, "more_pruning": ({"criterion": "random"},)}
    config = TrialConfig.model_validate({**dict(sweep.trial), **fields})
    data = CNN.load(config, None)
    recorder = Recorder(folder)
    recorder.sweep_begun(sweep.identity(), data=fingerprint(data))
    values = config.model_dump(mode="json")
    recorder.trial_started(config.key, phase="search", arm="sgd + wcr", number=0, config=values)
    runner = TrialRunner(config, folder / "trials" / config.key, lambda: load_task(config, data=data))
    while runner.advance()["status"] == "running":
        pass
    recorder.trial_ended(config.key)
    recorder.close()
    return folder, config.key


def invoke(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.output


def test_a_trial_of_an_unpacked_bundle_is_repeated_bit_for_bit(trained, tmp_path, monkeypatch):
    folder, key = trained
    archive = tmp_path / "tiny.tar.gz"
    code, shown = invoke("bundle", "tiny", "--runs", folder.parent, "--to", archive)
    assert (code, "Unpack it and run ./reproduce.sh CHECKOUT" in shown) == (0, True)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "elsewhere", filter="data")
    there = tmp_path / "elsewhere" / "tiny-bundle"
    assert invoke("repeat", "tiny", key, "--runs", there / "runs") == (0, f"{key}: every number is the same\n")


def test_a_number_that_differs_is_named(trained):
    folder, key = trained
    events = folder / "events.jsonl"
    entries = [json.loads(line) for line in events.read_text().splitlines()]
    row = entries[-1]["pruned"][1]["curve"][-1]
    before, row["loss"] = row["loss"], 0.25
    events.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    code, shown = invoke("repeat", "tiny", key, "--runs", folder.parent)
    assert code == 1
    assert shown.splitlines() == [
        f"{key}: 1 numbers differ",
        f"    random global, validation, sparsity {row['sparsity']:g}: loss 0.25 recorded, {before!r} now",
    ]


def test_the_winner_of_the_trials_so_far_is_repeated(toy, monkeypatch):
    toy.trial((0.9, 0.7))
    toy.recorder.summarized(toy.summary())
    better = toy.trial((0.9, 0.8), lam=1e-6)
    monkeypatch.setattr("service.repeat.repeat", lambda state, keys, **_: [(key, []) for key in keys])
    assert invoke("repeat", "toy", "--runs", toy.folder.parent) == (0, f"{better}: every number is the same\n")


def test_what_cannot_be_repeated_is_refused(trained, toy):
    folder, key = trained
    code, shown = invoke("repeat", "tiny", "0123", "--runs", folder.parent)
    assert (code, "repeat: trials must be finished ones of tiny, got '0123'" in shown) == (2, True)
    toy.trial(None, status="diverged")
    code, shown = invoke("repeat", "toy", "--runs", toy.folder.parent)
    assert (code, "toy has no winner yet, so give the key of a trial" in shown) == (2, True)
    events = folder / "events.jsonl"
    state = State.read(folder)
    events.write_text(events.read_text().replace(state.header["data"], "another"))
    code, shown = invoke("repeat", "tiny", key, "--runs", folder.parent)
    assert (code, "data: must be those of the sweep (fingerprint another), got others" in shown) == (2, True)


def test_the_files_of_a_bundle(trained, tmp_path):
    folder, key = trained
    (folder / CODE_DIFF).write_text("diff --git a/x b/x\n")
    (folder / "code" / "0123").mkdir(parents=True)
    (folder / "code" / "0123" / "nets.py").write_text("a = 1\n")
    num_files = bundle(State.read(folder), tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as packed:
        names = {member.name.removeprefix("tiny-bundle/") for member in packed.getmembers()}
        constraints = packed.extractfile("tiny-bundle/constraints.txt").read().decode().splitlines()
        script = packed.getmember("tiny-bundle/reproduce.sh")
        packed.extractall(tmp_path, filter="data")
    assert names == {
        *("README.md", "constraints.txt", "data.json", "reproduce.sh", "software.json", "code.diff"),
        *("runs/tiny/code/0123/nets.py", "runs/tiny/events.jsonl", f"runs/tiny/trials/{key}/result.json"),
    }
    assert num_files == len(names)
    assert script.mode == 0o755
    assert all(line.count("==") == 1 and " " not in line for line in constraints)
    software = json.loads((tmp_path / "tiny-bundle" / "software.json").read_text())
    assert f"torch=={software['torch']}" in constraints
    done = subprocess.run(["bash", "-n", tmp_path / "tiny-bundle" / "reproduce.sh"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_changes_to_the_code_are_kept_from_the_start(tmp_path, monkeypatch):
    repository = tmp_path / "code"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    (repository / "module.py").write_text("a = 1\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    monkeypatch.setattr("service.records.bundle.__file__", str(repository / "module.py"))
    save_code_diff(tmp_path)
    assert not (tmp_path / CODE_DIFF).exists()  # nothing has changed
    (repository / "module.py").write_text("a = 2\n")
    save_code_diff(tmp_path)
    first = (tmp_path / CODE_DIFF).read_text()
    assert "+a = 2" in first
    (repository / "module.py").write_text("a = 3\n")
    save_code_diff(tmp_path)
    assert (tmp_path / CODE_DIFF).read_text() == first
