"""Look-ups in the table of a trained grid, checked by hand."""

import json
import math

import numpy as np
import pytest

from benchmarks._grid_table import GridTable, Trainings, read_tables
from benchmarks.digits_grid import ARMS
from tests.benchmarks.conftest import export_grid, write_lines

NAN = math.nan
AXES = {"lam": (1e-6, 1e-5, 1e-3), "opt/rho": (0.1, 0.4)}
# Means over two seeds: 0.5, 0.7 / 0.9, 0.8 / 0.3 (a diverged seed counts as 0), 0.6.
FULL = np.array([[[0.4, 0.6], [0.7, 0.7]], [[0.85, 0.95], [0.8, 0.8]], [[NAN, 0.6], [0.6, 0.6]]])
SHORT = np.array([[[0.1], [0.2]], [[0.3], [0.4]], [[0.5], [0.6]]])
TABLE = GridTable({8: AXES, 30: AXES}, {8: SHORT, 30: FULL})


def point(lam, rho):
    return {"lam": lam, "opt/rho": rho}


@pytest.mark.parametrize(
    ("lam", "rho", "index"),
    [
        (1e-6, 0.1, (0, 0)),
        (3.1e-6, 0.1, (0, 0)),  # log10: -5.51
        (3.2e-6, 0.1, (1, 0)),  # log10: -5.49
        (0.9e-4, 0.1, (1, 0)),  # log10: -4.05, halfway between -5 and -3 is -4
        (1.1e-4, 0.1, (2, 0)),
        (1.0, 0.19, (2, 0)),  # outside the grid; halfway between 0.1 and 0.4 is 0.2
        (1e-9, 0.21, (0, 1)),
    ],
)
def test_the_nearest_grid_point_on_a_logarithmic_scale(lam, rho, index):
    assert TABLE.nearest(point(lam, rho), 30) == index


def test_the_regret_is_relative_to_the_best_mean():
    np.testing.assert_allclose(TABLE.means(), [[0.5, 0.7], [0.9, 0.8], [0.3, 0.6]])
    assert TABLE.regret(point(1e-5, 0.1)) == 0
    assert TABLE.regret(point(1e-6, 0.4)) == pytest.approx(0.2)
    assert TABLE.regret(point(1e-3, 0.1)) == pytest.approx(0.6)
    assert TABLE.regret(None) == pytest.approx(0.9)


def test_repeated_trainings_take_every_seed_once_in_random_order():
    firsts = set()
    for repetition in range(20):
        train = Trainings(TABLE, repetition)
        drawn = [train(point(1e-6, 0.1), 30) for _ in range(4)]
        assert sorted(drawn[:2]) == sorted(drawn[2:]) == [0.4, 0.6]
        firsts.add(drawn[0])
    assert firsts == {0.4, 0.6}


def test_a_draw_does_not_depend_on_trainings_elsewhere():
    for repetition in range(10):
        one, other = Trainings(TABLE, repetition), Trainings(TABLE, repetition)
        for lam in (1e-5, 1e-3):
            other(point(lam, 0.4), 30)
        other(point(1e-6, 0.1), 8)
        assert one(point(1e-6, 0.1), 30) == other(point(1e-6, 0.1), 30)


def test_epochs_are_counted_and_only_full_trainings_are_selected():
    train = Trainings(TABLE, 0)
    assert train(point(1e-3, 0.4), 8) == 0.6
    assert train.selected() is None
    train(point(1e-3, 0.4), 30)  # 0.6
    train(point(1e-6, 0.4), 30)  # 0.7
    train(point(1.1e-6, 0.4), 30)  # 0.7, at the same grid point: the earlier one stays
    train(point(1e-5, 0.4), 30)  # 0.8
    assert train.epochs == 8 + 4 * 30
    assert [train.selected(budget) for budget in (37, 38, 68, 98, 128)] == [
        None,
        point(1e-3, 0.4),
        point(1e-6, 0.4),
        point(1e-6, 0.4),
        point(1e-5, 0.4),
    ]


def test_the_selection_uses_the_mean_over_seeds_and_skips_divergence():
    train = Trainings(TABLE, 0)
    assert sorted(train(point(1e-5, 0.1), 30) for _ in range(2)) == [0.85, 0.95]
    train(point(1e-5, 0.4), 30)
    assert train.selected() == point(1e-5, 0.1)  # 0.9 against 0.8
    train = Trainings(TABLE, 0)
    for _ in range(2):
        train(point(1e-3, 0.1), 30)  # one of both diverges
    train(point(1e-6, 0.1), 30)
    assert train.selected() == point(1e-6, 0.1)


# ---- reading -------------------------------------------------------------------------------------------------------


def test_only_complete_seeds_are_read(tmp_path):
    sgd, s2sam, sam = ARMS
    missing = "sgd + hoyer_square/epochs=15/lam=5e-05/weight_decay=0.1/seed=1"
    nan = "sgd + hoyer_square/epochs=30/lam=1.5e-05/weight_decay=0.004/seed=2"
    parts = [(sgd, 8, 0), (sgd, 15, 0), (sgd, 15, 1), (sgd, 30, 0), (sgd, 30, 2), (sam, 30, 0), (s2sam, 8, 0)]
    write_lines(tmp_path / "lines", parts, skipped=[missing], diverged=[nan])
    assert export_grid(tmp_path / "lines", tmp_path / "table") == 56 + 2 * 42 - 1 + 2 * 30 + 90 + 168
    tables, coverage = read_tables(tmp_path / "table", 0.96)
    assert list(tables) == ["sgd + hoyer_square", "sam + wcr"]  # s2sam has no complete seed at 30 epochs
    table = tables["sgd + hoyer_square"]
    assert {epochs: values.shape for epochs, values in table.values.items()} == {
        8: (8, 7, 1),
        15: (7, 6, 1),
        30: (6, 5, 2),
    }
    assert np.argwhere(np.isnan(table.values[30])).tolist() == [[0, 1, 1]]
    assert table.means()[0, 0] == pytest.approx(0.51)  # (0.50 + 0.52) / 2
    assert tables["sam + wcr"].values[30].shape == (6, 3, 5, 1)
    assert coverage == [
        "sgd + hoyer_square: 8 epochs: seeds [0]; 15 epochs: seeds [0]; 30 epochs: seeds [0, 2]",
        "s2sam + wcr: 8 epochs: seeds [0]; 15 epochs: seeds none; 30 epochs: seeds none",
        "sam + wcr: 8 epochs: seeds none; 15 epochs: seeds none; 30 epochs: seeds [0]",
    ]


def test_a_value_is_found_at_its_own_grid_point(tmp_path):
    lines, sgd = tmp_path / "lines", ARMS[0]
    write_lines(lines, [(sgd, 30, 0)])
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    for entry in entries:
        entry["validation"]["0.96"] = round(100 * entry["lam"] + entry["weight_decay"], 9)
    lines.write_text("".join(json.dumps(entry) + "\n" for entry in reversed(entries)))
    export_grid(lines, tmp_path / "table")
    tables, _ = read_tables(tmp_path / "table", 0.96)
    train = Trainings(tables["sgd + hoyer_square"], 0)
    assert train({"lam": 2.5e-4, "opt/weight_decay": 0.0125}, 30) == pytest.approx(0.0375)
    assert train({"lam": 1.1e-3, "opt/weight_decay": 0.9e-3}, 30) == pytest.approx(0.101)
