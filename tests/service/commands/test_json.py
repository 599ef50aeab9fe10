"""`--json`: each command prints one JSON value on standard output, of the shape that docs/command-line.md shows."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands import app
from service.tracking import shipper
from tests.service.conftest import fill


@pytest.fixture
def printed(toy):
    """A function: the JSON that `sweeps ... --json` prints, and the exit code."""

    def run(*words):
        done = CliRunner().invoke(app, [*map(str, words), "--json", "--runs", str(toy.folder.parent)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return json.loads(done.stdout), done.exit_code

    return run


def test_report_of_the_only_sweep(toy, printed):
    fill(toy)
    toy.recorder.summarized(toy.summary())
    shown, code = printed("report", "--format", "text")
    assert (code, shown["report"]) == (0, None)
    (sweep,) = shown["sweeps"]
    assert sweep["winner"]["arm"] == "sam + wcr"
    assert sweep["winner"]["test"]["0.9"]["value"] == pytest.approx((0.70 + 0.74 + 0.72) / 3)
    assert sweep["headline"].startswith("Best: sam + wcr, lam 1e-05, rho 0.1, lr 0.1: test acc 0.720 ± 0.020")


def test_report_of_a_running_sweep_has_its_results_so_far(toy, printed):
    toy.trial((0.9, 0.8))
    (sweep,) = printed("report", "toy", "--format", "text")[0]["sweeps"]
    assert (sweep["complete"], sweep["winner"]["value"]) == (False, 0.8)


def test_report_of_a_sweep_that_goes_on_has_its_current_results(toy, printed):
    toy.trial((0.9, 0.7))
    toy.recorder.summarized(toy.summary())
    toy.recorder.run_started(None, num_search=2, num_confirm=0)
    toy.trial((0.9, 0.8), lam=1e-6)
    (sweep,) = printed("report", "toy", "--format", "text")[0]["sweeps"]
    assert (sweep["complete"], sweep["winner"]["value"]) == (False, 0.8)


def test_bundle(toy, printed, tmp_path):
    toy.trial((0.9, 0.8))
    shown, code = printed("bundle", "toy", "--to", tmp_path / "b.tar.gz")
    assert code == 0
    assert shown["num_files"] > 3
    assert shown == {"sweep": "toy", "archive": str(tmp_path / "b.tar.gz"), "num_files": shown["num_files"]}


def test_repeat(toy, printed, monkeypatch):
    def repeat(state, keys, **_):
        print("a library prints")
        yield from zip(keys, ([], ["loss 1 recorded, 2 now"]), strict=True)

    monkeypatch.setattr("service.repeat.repeat", repeat)
    expected = [{"trial": "a", "differences": []}, {"trial": "b", "differences": ["loss 1 recorded, 2 now"]}]
    assert printed("repeat", "toy", "a", "b") == (expected, 1)


def test_figures(toy, printed):
    key = toy.trial((0.9, 0.8))
    files = [str(toy.state.trial_folder(key) / name) for name in ("curve.png", "weights.png")]
    assert printed("figures", "toy", key) == ([{"trial": key, "files": files}], 0)


def test_stop(toy, printed):
    toy.recorder.close()
    assert printed("stop", "toy") == ({"sweep": "toy", "stopped": False, "process": "", "command": None}, 0)


def test_retry(toy, printed, sweeps):
    key = toy.trial(None, status="error")
    toy.recorder.run_started(["python", "toy.py"], num_search=1, num_confirm=0)
    toy.recorder.close()
    shown, code = sweeps("retry", "toy", "--json")
    assert (code, shown.count("\n")) == (2, 1)
    assert shown.startswith("retry: --json must be given with --no-start")
    expected = {"sweep": "toy", "trials": [key], "command": ["python", "toy.py"]}
    assert printed("retry", "toy", "--no-start") == (expected, 0)


class Sent:
    """Stands for the thread that sends the records."""

    num_sent, server, failure = 5, "sqlite:///x", "it is unreachable"

    def __init__(self, *_, **__):
        pass

    def start(self):
        pass

    def finish(self, timeout):
        return 2


def test_sync(toy, printed, monkeypatch):
    monkeypatch.setattr(shipper, "Shipper", Sent)
    assert printed("sync", "toy") == ({"sweep": "toy", "server": "sqlite:///x", "sent": 5, "left": 2}, 2)


@pytest.mark.parametrize(("recorded", "expected"), [(True, 0), (False, 1)])
def test_reprune(toy, printed, monkeypatch, recorded, expected):
    toy.trial((0.9, 0.8))

    def run_reprune(*_, **__):
        print("its progress")
        return toy.summary(), recorded

    monkeypatch.setattr("service.driver.run_reprune", run_reprune)
    shown, code = printed("reprune", "toy", "--criterion", "random")
    assert (code, shown["sweep"], shown["winner"]["value"]) == (expected, "toy", 0.8)
    assert shown["headline"].startswith("Best: sam + wcr")


def test_inspect():
    done = CliRunner().invoke(app, ["inspect", "digits", "--json", "--model", "width=4"])
    shown = json.loads(done.stdout)
    assert (shown["sweep"], shown["architecture"]) == ("digits", "small_resnet")
    first = {"name": "0.weight", "layer": "Conv2d", "shape": [4, 1, 3, 3], "num": 36, "prunable": True}
    assert shown["weights"][0] == {**first, "regularized": True, "left_out": ""}


@pytest.mark.parametrize("command", ["report", "bundle", "status", "stop", "retry", "sync", "reprune"])
def test_errors_are_one_line_on_standard_error(toy, command):
    done = CliRunner().invoke(app, [command, "other", "--json", "--runs", str(toy.folder.parent)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"sweep: must be one of toy .*, got 'other'\n", done.stderr)


def test_every_command_that_prints_results_has_the_option_and_a_shape_in_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page.partition("## For programs")[2], re.MULTILINE))
    with_json = {command.name for command in app.registered_commands if "as_json" in command.callback.__annotations__}
    assert with_json == documented
    assert {command.name for command in app.registered_commands} - with_json <= {"submit"}
