"""`make test-walk`: the walk-through of docs/changing-a-sweep.md, command by command, with its number of trainings."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from service.records.state import State

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "changing-a-sweep.md"


def steps():
    """(stated number of trainings, command) for each step of the page."""
    text = re.sub(r"\\\n\s*", "", PAGE.read_text())
    return [
        (int(num), shlex.split(command)) for num, command in re.findall(r"<!-- walk: (\d+) -->\n\n    (.*)\n", text)
    ]


def trainings(runs):
    """Every trained network, told apart by its file: a link is not another one."""
    return {path.stat().st_ino for path in runs.glob("*/trials/*/trained/model.safetensors")}


def test_the_walk(tmp_path):
    runs, before, shown = tmp_path / "runs", set(), []
    assert [num for num, _ in steps()] == [4, 2, 3, 0, 0, 6, 0]
    for number, (stated, (program, *arguments)) in enumerate(steps(), 1):
        command = [sys.executable, "-m", "sweeps", *arguments] if program == "sweeps" else [sys.executable, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPARSITY_SWEEPS_RUNS": str(runs)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        after = trainings(runs)
        assert len(after - before) == stated, f"step {number}"
        assert before <= after
        before = after
        shown.append(done.stdout)
    assert "4 of its 4 finished trials fit and are kept" in shown[1]
    assert "6 of its 6 finished trials fit and are kept" in shown[2]
    assert "9 of 9 finished trials are evaluated, without training" in shown[3]
    assert "compensation uniform" in shown[3]
    assert "acc at 0.99" in shown[4]
    assert "pruned in 2 ways" in shown[5]
    walk, adopted = (State.read(runs / name) for name in ("walk", "walk_wcr"))
    assert {trial.arm for trial in adopted.trials.values()} == {"sgd + wcr"}
    for key, trial in adopted.trials.items():
        assert trial.pruned["magnitude global"] == walk.trials[key].pruned["magnitude global"]
