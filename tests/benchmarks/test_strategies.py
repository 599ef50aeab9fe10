"""Search strategies on a function with a known optimum, and their comparison by hand arithmetic."""

import functools
import itertools
import json
import math

import numpy as np
import optuna
import pytest

from benchmarks import _page, strategies
from benchmarks._grid_table import GridTable, Trainings
from benchmarks._strategies import (
    BY_TPE,
    STRATEGIES,
    halving_sizes,
    optuna_search,
    scaled,
    scaled_back,
    scaled_point,
)
from benchmarks.digits_grid import ARMS, EPOCHS, grid, make_arm
from service.search.space import Arm
from tests.benchmarks.conftest import export_grid, write_lines

ARM = make_arm("s2sam", "wcr")
BEST = {"lam": 5e-5, "opt/rho": 0.1, "opt/weight_decay": 1.25e-2}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def bowl(point, epochs):
    """Accuracy with its optimum of 1 at BEST after 30 epochs, and at a larger lam and weight decay after fewer."""
    shift = math.log10(30 / epochs)
    lam, rho, decay = (math.log10(point[name] / BEST[name]) for name in ("lam", "opt/rho", "opt/weight_decay"))
    return math.exp(-((lam - shift) ** 2) - 0.3 * rho**2 - (decay - shift) ** 2)


def bowl_table():
    axes = {epochs: grid(ARM, epochs) for epochs in EPOCHS}
    values = {}
    for epochs, by_name in axes.items():
        points = [dict(zip(by_name, values, strict=True)) for values in itertools.product(*by_name.values())]
        shape = [*map(len, by_name.values()), 1]
        values[epochs] = np.array([bowl(point, epochs) for point in points]).reshape(shape)
    return GridTable(axes, values)


TABLE = bowl_table()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_comes_close_to_a_known_optimum_within_its_budget(name):
    regrets = []
    for seed in range(2):
        train = Trainings(TABLE, seed)
        STRATEGIES[name].run(ARM, train, 360, seed)
        assert 330 < train.epochs <= 360
        selected = train.selected()
        assert all(ARM.space[key].low <= value <= ARM.space[key].high for key, value in selected.items())
        regrets.append(TABLE.regret(selected))
    assert TABLE.regret(BEST) == 0
    assert TABLE.regret(ARM.initial_point) > 0.35
    assert np.mean(regrets) < 0.25


def test_halving_needs_scaled_configurations_where_the_optimum_moves():
    mean_regrets = []
    for name in ("halving 8, 30", "halving 8, 30, unscaled"):
        regrets = []
        for seed in range(10):
            train = Trainings(TABLE, seed)
            STRATEGIES[name].run(ARM, train, 240, seed)
            regrets.append(TABLE.regret(train.selected()))
        mean_regrets.append(np.mean(regrets))
    assert mean_regrets[0] < mean_regrets[1] / 2


def test_the_search_is_that_of_a_sweep():
    """The first configuration is the initial point; two seeds train each configuration twice."""
    seen = []
    STRATEGIES[f"{BY_TPE}, two seeds"].run(ARM, lambda point, epochs: seen.append((point, epochs)) or 0.5, 240, 7)
    assert [epochs for _, epochs in seen] == [30] * 8
    points = [point for point, _ in seen]
    assert points[::2] == points[1::2]
    assert points[0] == ARM.initial_point
    assert len({tuple(point.values()) for point in points}) == 4


@pytest.mark.parametrize("name", ["warm start from 8", "warm start from 15", "prior from 8", "halving 8, 30"])
def test_the_best_short_configurations_are_the_first_in_full(name):
    seen = []

    def train(point, epochs):
        seen.append((bowl(point, epochs), point, epochs))
        return seen[-1][0]

    STRATEGIES[name].run(ARM, train, 480, 1)
    length = seen[0][2]
    short = sorted((row for row in seen if row[2] == length), key=lambda row: -row[0])
    full = [point for _, point, epochs in seen if epochs == 30]
    num = 1 if name.startswith("prior") else 4
    assert [list(point.values()) for point in full[:num]] == [
        pytest.approx(list(scaled_back(point, length, ARM).values())) for _, point, _ in short[:num]
    ]
    if not name.startswith("halving"):
        assert len({tuple(point.values()) for point in full}) == len(full) == 12  # three quarters of 480 epochs


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_an_initial_point_seeds_begin_differently(name):
    unknown = Arm(ARM.choices, ARM.space)
    seen = {0: [], 1: []}
    for seed, points in seen.items():
        STRATEGIES[name].run(unknown, functools.partial(remember, points), 120, seed)
    assert seen[0][0] != seen[1][0]


def remember(points, point, epochs):
    points.append(point)
    return 0.5


def test_a_study_learns_the_values_and_the_failures():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    values = iter([0.25, math.nan, 0.75])
    optuna_search(study, ARM, lambda point, epochs: next(values), 3)
    assert [trial.value for trial in study.trials] == [0.25, None, 0.75]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_training_that_diverges_does_not_end_a_search():
    nowhere = GridTable(TABLE.axes, {epochs: np.full_like(values, np.nan) for epochs, values in TABLE.values.items()})
    for name, strategy in STRATEGIES.items():
        train = Trainings(nowhere, 0)
        strategy.run(ARM, train, 120, 0)
        assert train.selected() is None, name


@pytest.mark.parametrize(
    ("lengths", "budget", "sizes"),
    [
        ((8,), 120, [7, 2]),  # 7 x 8 + 2 x 30 = 116; 8 would cost 64 + 3 x 30
        ((8,), 240, [15, 4]),  # 15 x 8 + 4 x 30
        ((15,), 120, [4, 2]),  # 4 x 15 + 2 x 30
        ((8, 15), 240, [9, 5, 3]),  # 72 + 75 + 90 = 237; 10 would cost 80 + 90 + 90
        ((8,), 60, [3, 1]),  # 3 x 8 + 30 = 54; 4 would cost 32 + 2 x 30
        ((8,), 10, [1, 1]),
    ],
)
def test_stages_of_halving(lengths, budget, sizes):
    assert halving_sizes(lengths, budget) == sizes


def test_scaling_keeps_the_product_with_the_number_of_epochs():
    there = scaled(ARM, 15)
    assert (there.space["lam"].low, there.space["lam"].high) == pytest.approx((2e-6, 2e-4))
    assert there.space["opt/rho"] == ARM.space["opt/rho"]
    assert there.initial_point == pytest.approx({"lam": 2e-5, "opt/rho": 0.1, "opt/weight_decay": 0.06})
    point = {"lam": 1e-4, "opt/rho": 0.5, "opt/weight_decay": 5e-2}
    assert scaled_point(point, 15) == pytest.approx({"lam": 2e-4, "opt/rho": 0.5, "opt/weight_decay": 0.1})
    assert scaled_back(scaled_point(point, 8), 8, ARM) == pytest.approx(point)
    assert scaled_back({**point, "lam": 9e-4}, 8, ARM)["lam"] == 1e-4  # the top of the range


# ---- the comparison ------------------------------------------------------------------------------------------------


def test_means_errors_and_paired_differences(monkeypatch):
    monkeypatch.setattr(strategies, "BUDGETS", (120, 360))
    monkeypatch.setattr(strategies, "THIRDS", (360,))
    found = {
        BY_TPE: {"a": [[0.4, 0.1], [0.2, 0.3]], "b": [[0.2, 0.1], [0.4, 0.1]]},
        "new": {"a": [[0.1, 0.0], [0.1, 0.0]]},
        "all": {"a": [[0.1, 0.1], [0.1, 0.1]], "b": [[0.3, 0.3], [0.3, 0.3]]},
    }
    summary = strategies.summarize(found)
    # A mean of two values x and y has the standard error |x - y| / 2.
    assert np.allclose(summary[BY_TPE]["a"]["regret"], [(0.3, 0.1), (0.2, 0.1)])
    assert np.allclose(summary[BY_TPE]["all arms"]["regret"], [(0.3, 0.0), (0.15, 0.05)])
    assert np.allclose(summary[BY_TPE]["a"]["difference"], 0)
    assert np.allclose(summary["new"]["a"]["difference"], [(-0.2, 0.1), (-0.2, 0.1)])
    assert np.allclose(summary["new"]["a"]["third"], [(-0.1, 0.1)])  # 0.1 - 0.1 and 0.1 - 0.3
    assert "all arms" not in summary["new"]  # it lacks an arm
    assert np.allclose(summary["all"]["all arms"]["difference"], [(-0.1, 0.0), (0.05, 0.05)])


def test_one_run_of_an_unplanned_strategy_shows_every_budget(monkeypatch):
    monkeypatch.setattr(strategies, "BUDGETS", (120, 240))
    found = strategies.regrets(STRATEGIES["random"], ARM, TABLE, 3)
    expected = []
    for budget in (120, 240):
        train = Trainings(TABLE, 3)
        STRATEGIES["random"].run(ARM, train, budget, 3)
        expected.append(TABLE.regret(train.selected()))
    assert found == expected


def test_strategies_are_skipped_where_the_table_lacks_a_schedule(monkeypatch):
    monkeypatch.setattr(strategies, "BUDGETS", (60,))
    partial = GridTable({30: TABLE.axes[30]}, {30: TABLE.values[30]})
    chosen = {name: STRATEGIES[name] for name in (BY_TPE, "halving 8, 30")}
    assert strategies.compare({"a": (ARM, partial)}, chosen, 1).keys() == {BY_TPE}
    found = strategies.compare({"a": (ARM, partial), "b": (ARM, TABLE)}, chosen, 1)
    assert {name: list(by_arm) for name, by_arm in found.items()} == {BY_TPE: ["a", "b"], "halving 8, 30": ["b"]}


def test_what_a_short_schedule_says():
    """Where the optimum moves with the length, only scaled configurations rank the full ones well."""
    by_epochs = {row["epochs"]: row for row in strategies.short_schedules(ARM, TABLE)}
    assert by_epochs.keys() == {8, 15}
    for row in by_epochs.values():
        assert row["same"]["correlation"] < 0.93 < 0.95 < row["scaled"]["correlation"]
        assert row["scaled"]["regret"] == 0
        assert row["same"]["regret"] > 0.1


def test_the_same_and_the_scaled_configurations_of_a_short_schedule_by_hand():
    """lam 1e-5 and 1e-4 have 0.9 and 0.7 in full, and 0.2 and 0.6 after 8 epochs. Scaled by 30 / 8, they are nearest
    to 1e-4 and 3e-4, with 0.6 and 0.4."""
    others = {"opt/rho": (0.1,), "opt/weight_decay": (1e-2,)}
    axes = {8: {"lam": (1e-5, 1e-4, 3e-4), **others}, 30: {"lam": (1e-5, 1e-4), **others}}
    values = {8: np.array([0.2, 0.6, 0.4]), 30: np.array([0.9, 0.7])}
    table = GridTable(axes, {epochs: row.reshape(-1, 1, 1, 1) for epochs, row in values.items()})
    (row,) = strategies.short_schedules(ARM, table)
    assert row["same"] == {"correlation": pytest.approx(-1), "regret": pytest.approx(0.2)}
    assert row["scaled"] == {"correlation": pytest.approx(1), "regret": 0}


def test_the_regret_of_tied_configurations_is_their_mean():
    assert strategies.regret_of([0.2, 0.7, 0.7], np.array([0.9, 0.8, 0.5])) == pytest.approx(0.25)


def test_the_command_writes_a_record_and_a_page(tmp_path, monkeypatch, capsys):
    parts = [(ARMS[0], epochs, seed) for epochs in (8, 30) for seed in (0, 1)]
    write_lines(tmp_path / "lines", parts, accuracy=lambda labels: round(100 * labels["lam"], 6))
    export_grid(tmp_path / "lines", tmp_path / "table.csv.gz")
    monkeypatch.setattr(strategies, "RESULTS", tmp_path)
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    chosen = (BY_TPE, "random", "halving 8, 30", "halving 15, 30")
    monkeypatch.setattr(strategies, "STRATEGIES", {name: STRATEGIES[name] for name in chosen})
    page = tmp_path / "page.md"
    names = ("strategies", "strategies by arm", "short schedules")
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names))
    arguments = ["--table", str(tmp_path / "table.csv.gz"), "--repetitions", "2", "--write", str(page)]
    arguments += ["--processes", "1"]
    strategies.main(arguments)
    (path,) = tmp_path.glob("*-strategies.json")
    record = json.loads(path.read_text())
    text = page.read_text()
    easy, hard = record["cases"].values()
    for case in (easy, hard):
        assert list(case["results"]) == [BY_TPE, "random", "halving 8, 30"]
        mean, error = case["results"]["random"]["all arms"]["regret"][0]
        assert f"| random | {mean:.4f} ± {error:.4f}" in text
    # The best accuracies are 0.1 and half of it. All start at the initial point in the first case, none in the second.
    assert easy["short_schedules"]["sgd + hoyer_square"][0]["same"]["regret"] == pytest.approx(0)
    assert easy["results"]["random"]["all arms"]["regret"] != hard["results"]["random"]["all arms"]["regret"]
    assert hard["results"][BY_TPE]["all arms"]["regret"][0][0] < 0.05
    assert "| sgd + hoyer_square | 8 |" in text
    assert "- s2sam + wcr: 8 epochs: seeds none" in text
    assert (tmp_path / "strategies.png").stat().st_size > 1000


def test_a_table_without_a_complete_arm_is_refused(tmp_path, capsys):
    write_lines(tmp_path / "lines", [(ARMS[0], 8, 0)])
    export_grid(tmp_path / "lines", tmp_path / "table.csv.gz")
    with pytest.raises(SystemExit):
        strategies.main(["--table", str(tmp_path / "table.csv.gz")])
    assert "must have a complete seed of an arm at 30 epochs, got none" in capsys.readouterr().err
