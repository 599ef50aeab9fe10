"""A table of results holds what the lines do, so that another machine can continue."""

import json

from benchmarks._jobs import run
from benchmarks._result_table import restore
from benchmarks.digits_grid import ARMS, LABELS, jobs, make_arm
from tests.benchmarks.conftest import export_grid, write_lines

ARM = ARMS[2]
DIVERGED = "sam + wcr/epochs=8/lam=5e-06/rho=0.1/weight_decay=0.05/seed=0"


def all_jobs():
    return jobs(make_arm(*ARM), 8, 0)


def test_restored_jobs_are_not_run_again_and_give_the_same_table(tmp_path):
    missing = "sam + wcr/epochs=8/lam=5e-06/rho=0.1/weight_decay=0.1/seed=0"
    write_lines(tmp_path / "lines", [(ARM, 8, 0)], skipped=[missing], diverged=[DIVERGED])
    num = export_grid(tmp_path / "lines", tmp_path / "table")
    assert restore(all_jobs(), tmp_path / "table", tmp_path / "restored", LABELS) == num == 8 * 3 * 7 - 1
    assert restore(all_jobs(), tmp_path / "table", tmp_path / "restored", LABELS) == 0
    export_grid(tmp_path / "restored", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "table").read_bytes()
    entries = [json.loads(line) for line in (tmp_path / "restored").read_text().splitlines()]
    assert [entry["job"] for entry in entries if "diverged" in entry] == [DIVERGED]
    done = (job for job in all_jobs() if job.name != missing)
    assert run(done, tmp_path / "restored", num_processes=1) == []  # trains nothing: a training would take minutes


def test_without_a_table_nothing_is_restored(tmp_path):
    assert restore(all_jobs(), tmp_path / "table", tmp_path / "lines", LABELS) == 0
    assert not (tmp_path / "lines").exists()
