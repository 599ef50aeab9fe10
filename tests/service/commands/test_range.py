import json

import pytest
from typer.testing import CliRunner

from service.cli import with_options
from service.commands import app
from service.commands.range import limits, steps
from service.search.space import make_arms
from tests.service._sweeps import make

SMALL = ("--model", "width=2", "--model", "depth=1", "--train-size", "64", "--batch-size", "16", "--optimizer", "sgd")


def invoke(*words):
    return CliRunner().invoke(app, ["range", *words])


def test_a_sweep_takes_the_range_that_was_found(tmp_path):
    file = tmp_path / "found.json"
    words = ("--regularizer", "wcr", "--lams", "1e-6:1e-2", "--short-epochs", "1", "--to", str(file))
    shown = invoke("digits", *SMALL, *words)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("penalty share") == 5
    found = json.loads(file.read_text())
    assert (found["regularizer"], len(found["points"])) == ("wcr", 5)
    assert file.with_suffix(".png").stat().st_size > 5_000
    sweep = make(regularizer=("wcr", "hoyer_square"), optimizer=("sgd",), range_from=(file,))
    wcr, hoyer = (arm.space["lam"] for arm in make_arms(sweep))
    assert (wcr.low, wcr.high) == (found["low"], found["high"])
    assert (hoyer.low, hoyer.high) == (1e-5, 1e-3)  # its own
    assert "range_from" not in sweep.identity()
    assert sweep.identity()["bounds"] == {"wcr.lam": [found["low"], found["high"]]}


def test_given_bounds_are_stronger_than_a_file(tmp_path):
    (tmp_path / "r.json").write_text('{"regularizer": "wcr", "low": 1e-5, "high": 1e-4}')
    for bounds in (["wcr.lam=1e-7:1e-6"], ["lam=1e-7:1e-6"]):
        sweep = make(regularizer=("wcr",), optimizer=("sgd",), range_from=(tmp_path / "r.json",), bounds=bounds)
        (arm,) = make_arms(sweep)
        assert (arm.space["lam"].low, arm.space["lam"].high) == (1e-7, 1e-6)


def test_another_file_replaces_that_of_the_sweep(tmp_path):
    for name, low in (("first", 1e-6), ("second", 1e-3)):
        (tmp_path / f"{name}.json").write_text(f'{{"regularizer": "wcr", "low": {low}, "high": {10 * low}}}')
    sweep = make(regularizer=("wcr",), optimizer=("sgd",), range_from=(tmp_path / "first.json",))
    second = (tmp_path / "second.json",)
    for other in (sweep.changed(range_from=second), with_options(sweep, {"range_from": list(second)})):
        (arm,) = make_arms(other)
        assert (arm.space["lam"].low, arm.space["lam"].high) == (1e-3, 1e-2)
        assert other.identity()["bounds"] == {"wcr.lam": [1e-3, 1e-2]}
    (arm,) = make_arms(sweep.changed(range_from=()))
    assert (arm.space["lam"].low, arm.space["lam"].high) == (1e-6, 1e-4)  # the search space's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "range_from: must be a file that can be read, got "),
        ("[]", "must be a file that `sweeps range` wrote, got another one"),
        (
            '{"regularizer": "wcr", "low": 1, "high": 0.1}',
            "must hold a regularizer and 0 < low < high, got 'wcr'",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"r\.json") as error:
        make(regularizer=("wcr",), range_from=(tmp_path / "r.json",))
    assert message in str(error.value)


def test_values_of_lam_are_evenly_spaced():
    assert steps(1e-3, 1.0, 1) == [1e-3, 1e-2, 1e-1, 1.0]
    assert steps(1e-2, 1.0, 2) == pytest.approx([1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0], rel=1e-5)
    assert limits("1e-3:2") == (1e-3, 2.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--lams", "1:0.1"), "lams: must be LOW:HIGH with 0 < LOW < HIGH, got '1:0.1'"),
        (
            ("digits", "--optimizer", "sgd"),
            "must be a single one (give --regularizer), got hoyer_square, wcr",
        ),
        (("digits", "--regularizer", "none"), "regularizer: must be a single one (give --regularizer), got none"),
        (
            ("digits", "--regularizer", "wcr", "--to", "nowhere/r.json"),
            "to: must be in a folder that exists, got",
        ),
        (("digitz", "--regularizer", "wcr"), "digitz"),
    ],
)
def test_wrong_input_is_one_line(words, message):
    shown = invoke(*words)
    assert shown.exit_code == 2
    assert message in shown.output
    assert shown.output.count("\n") == 1
