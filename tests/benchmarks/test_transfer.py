"""The trainings behind the comparison of rules for lam."""

import csv
import dataclasses
import gzip

import pytest

from benchmarks import transfer
from benchmarks.transfer import LAMS, LEVELS, SETTINGS, all_jobs


@pytest.fixture(scope="module")
def jobs():
    return list(all_jobs())


def test_every_setting_has_each_lam_and_seed_once_for_both_regularizers(jobs):
    assert len(jobs) == 2 * 18 * 12 * 3
    assert len({job.name for job in jobs}) == len({job.key for job in jobs}) == len(jobs)
    for job in jobs:
        config, labels = job.config, job.labels
        assert config.model == {"width": labels["width"], "depth": 3}
        assert (config.opt["weight_decay"], config.opt["lr"]) == (labels["weight_decay"], labels["lr"])
        assert (config.lam, config.seed, config.max_epochs) == (labels["lam"], labels["seed"], 15)
        assert (config.optimizer, config.regularizer) == ("sgd", labels["regularizer"])


def test_a_prefix_has_both_regularizers_all_settings_and_a_coarse_grid_first(jobs):
    coarse = jobs[: 2 * 18 * 6]
    assert {job.config.seed for job in coarse} == {0}
    for regularizer, lams in LAMS.items():
        own = [job for job in coarse if job.config.regularizer == regularizer]
        points = {(*(job.labels[name] for name in transfer.Setting._fields), job.config.lam) for job in own}
        assert points == {(*setting, lam) for setting in SETTINGS for lam in lams[::2]}
    assert [job.config.seed for job in jobs] == sorted(job.config.seed for job in jobs)


def test_lines_are_exported_in_any_order_to_the_same_table(tmp_path, monkeypatch, jobs, capsys):
    small = [
        dataclasses.replace(
            job,
            config=job.config.model_copy(
                update={"model": {"width": 2, "depth": 1}, "train_size": 64, "max_epochs": 1, "batch_size": 16}
            ),
        )
        for job in jobs[:2]
    ]
    lines, table = tmp_path / "new" / "lines.jsonl", tmp_path / "table.csv.gz"
    monkeypatch.setattr(transfer, "TABLE", table)
    monkeypatch.setattr(transfer, "all_jobs", lambda epochs: small)
    assert transfer.main(["--lines", str(lines), "--processes", "1"]) == 0
    before = lines.read_bytes()
    assert transfer.main(["--lines", str(lines), "--processes", "1"]) == 0
    assert lines.read_bytes() == before
    assert transfer.main(["--lines", str(lines), "--export"]) == 0
    first = table.read_bytes()
    lines.write_bytes(b"".join(reversed(before.splitlines(keepends=True))))
    transfer.main(["--lines", str(lines), "--export"])
    assert table.read_bytes() == first
    assert "2 trainings in" in capsys.readouterr().out
    with gzip.open(table, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["regularizer"] for row in rows] == ["hoyer_square", "wcr"]
    for row in rows:
        assert float(row["penalty_share_start"]) > 0
        assert float(row["penalty_share_end"]) > 0
        assert all(0 <= float(row[f"test {level:g}"]) <= 1 for level in (0, *LEVELS))
