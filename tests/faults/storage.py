"""What may happen to the folder that a sweep's records lie in."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import time

import pytest

from service.records.state import State
from tests._digits import LONGER, assert_as_undisturbed, end, events, kill, num_repeated, run, start, wait_until
from tests.test_pickles import Bomb


@pytest.fixture
def mounted(tmp_path):
    """A function: a file system of so many bytes, in memory. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("it must run as root (it mounts a file system)")
    folders = []

    def make(size):
        folder = tmp_path / "mounted"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def full(folder):
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(folder):
    """For whoever opens a file from now on."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        for _ in range(100):  # it is refused while somebody who was quick has a file open there for writing
            if subprocess.run(["mount", "-o", "remount,bind,ro", folder]).returncode == 0:
                break
            time.sleep(0.05)
        assert os.statvfs(folder).f_flag & os.ST_RDONLY
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("name", "fault"), [("full", full), ("read-only", read_only)])
def test_storage_that_takes_nothing_more(mounted, undisturbed, tmp_path, fault_row, name, fault):
    runs, shown = mounted("200m"), tmp_path / "shown"
    process = start(runs, shown=shown)
    wait_until(lambda: events(runs)["end"] >= 2, process)
    with fault(runs):
        begin = time.monotonic()
        assert end(process, timeout=240) == 1
        seconds = time.monotonic() - begin
    said = shown.read_text()
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert {trial.status for trial in State.read(runs / "digits").trials.values()} <= {"running", "finished"}
    run(runs)
    assert_as_undisturbed(runs, undisturbed)
    assert num_repeated(runs) == 0
    fault_row(
        f"storage {name}",
        f"nothing: after {seconds:.0f} s the sweep stops with a one-line reason",
        "at most one checkpoint interval of each trial that ran",
        "run the same command again once the folder can be written",
    )


@pytest.mark.parametrize("damage", ["truncated", "altered", "both lost"])
def test_a_damaged_checkpoint(runs, undisturbed_longer, fault_row, damage):
    process = start(runs, *LONGER)

    def with_both():  # a trial that is killed while it saves has only the previous one
        found = sorted(runs.glob("digits/trials/*/checkpoint.previous.pt"))
        return [path for path in found if path.with_name("checkpoint.pt").exists()]

    wait_until(lambda: len(with_both()) > 1, process)
    kill(process)
    previous, *_ = with_both()
    latest = previous.with_name("checkpoint.pt")
    for path in [latest, previous] if damage == "both lost" else [latest]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    run(runs, *LONGER)
    trial = State.read(runs / "digits").trials[latest.parent.name]
    assert trial.notes[0].startswith("checkpoint.pt: could not be read")
    assert len(trial.notes) == (2 if damage == "both lost" else 1)
    assert_as_undisturbed(runs, undisturbed_longer)
    assert num_repeated(runs) == 0
    again = "the whole trial" if damage == "both lost" else "two checkpoint intervals"
    name = "both of a trial's checkpoints altered" if damage == "both lost" else f"a checkpoint {damage}"
    fault_row(name, "nothing; a note is recorded with the trial", again, "run the same command again")


def test_pickles_where_ray_tune_keeps_its_own(runs, fault_row):
    """Under the names that Tune restores from, and those that searchers save to."""
    planted = runs / "digits" / "tune"
    planted.mkdir(parents=True)
    names = ("tuner", "trainable", "searcher-state-1", "search_gen_state", "error")
    for path in (planted / f"{name}.pkl" for name in names):
        path.write_bytes(pickle.dumps(Bomb(runs / "unpickled")))
    state = {"checkpoints": [pickle.dumps(Bomb(runs / "unpickled")).hex()]}
    (planted / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))
    run(runs, "--trials", "1", "--confirm", "0", "--epochs", "1", "--evaluations", "1")
    assert events(runs)["end"] == events(runs)["start"] > 0
    assert not (runs / "unpickled").exists()
    fault_row(
        "pickles planted where Ray Tune keeps its own", "nothing: they are not read", "nothing", "automatic, at once"
    )
