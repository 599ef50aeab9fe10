"""The grid of trainings behind the comparison of search strategies."""

import dataclasses
import json

import pytest

from benchmarks import digits_grid
from benchmarks.digits_grid import ARMS, EPOCHS, FULL_EPOCHS, all_jobs, grid, make_arm
from trainables.loop import load_task, train


@pytest.fixture(scope="module")
def jobs():
    return list(all_jobs())


def small(job, **changes):
    fields = {"model": {"width": 2, "depth": 1}, "train_size": 64, "max_epochs": 2, "batch_size": 16, **changes}
    return dataclasses.replace(job, config=job.config.model_copy(update=fields))


def test_every_grid_point_has_each_seed_and_length_once(jobs):
    # lam x weight decay: 6 x 5 at 30 epochs, 7 x 6 at 15 and 8 x 7 at 8; three seeds; three values of rho for two arms.
    assert len(jobs) == (30 + 42 + 56) * 3 * (1 + 3 + 3)
    assert len({job.name for job in jobs}) == len({job.key for job in jobs}) == len(jobs)
    assert {job.config.max_epochs for job in jobs} == {8, 15, 30}
    assert {job.config.opt["lr"] for job in jobs} == {0.1}


def test_arms_come_one_after_the_other_then_seeds_then_lengths(jobs):
    order = [
        (ARMS.index((job.config.optimizer, job.config.regularizer)), job.config.seed, job.config.max_epochs)
        for job in jobs
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("choices", ARMS)
def test_grids_lie_in_the_search_space_and_extend_as_schedules_get_shorter(choices):
    arm = make_arm(*choices)
    full = grid(arm, FULL_EPOCHS)
    assert full.keys() == arm.space.keys()
    for name, values in full.items():
        assert list(values) == sorted(values)
        assert arm.space[name].low <= values[0]
        assert values[-1] <= arm.space[name].high
    for epochs in EPOCHS:
        for name in ("lam", "opt/weight_decay"):
            # the top of the range, scaled by the ratio of the lengths, to within a seventh
            assert grid(arm, epochs)[name][-1] >= full[name][-1] * FULL_EPOCHS / epochs / 1.15


def test_a_training_has_the_accuracies_of_a_plain_one(jobs):
    job = small(jobs[-1])
    found = job.run()
    json.dumps(found, allow_nan=False)
    _, evaluation = train(load_task(job.config), job.config)
    expected = {f"{level:g}": round(values["acc"], 6) for level, values in evaluation.metrics.items()}
    assert list(expected) == ["0", "0.9", "0.94", "0.96", "0.98"]
    assert found["validation"] == expected
    assert found["test"].keys() == expected.keys()
    assert found["test"] != expected


def test_a_training_that_diverges_is_a_result(jobs):
    found = small(jobs[-1], lam=1e30).run()
    assert found["diverged"].startswith("diverged at step")
    assert "validation" not in found


def test_the_command_trains_what_has_no_line_and_exports_it(tmp_path, monkeypatch, jobs, capsys):
    lines, table = tmp_path / "lines.jsonl", tmp_path / "table.csv.gz"
    monkeypatch.setattr(digits_grid, "TABLE", table)
    monkeypatch.setattr(digits_grid, "all_jobs", lambda: [small(job, max_epochs=1) for job in jobs[:2]])
    assert digits_grid.main(["--lines", str(lines), "--processes", "1"]) == 0
    before = lines.read_bytes()
    assert digits_grid.main(["--lines", str(lines), "--processes", "1"]) == 0
    assert lines.read_bytes() == before
    assert digits_grid.main(["--lines", str(lines), "--export"]) == 0
    first = table.read_bytes()
    lines.write_bytes(b"".join(reversed(before.splitlines(keepends=True))))
    digits_grid.main(["--lines", str(lines), "--export"])
    assert table.read_bytes() == first  # the order in which trainings end does not matter
    assert "2 trainings in" in capsys.readouterr().out
