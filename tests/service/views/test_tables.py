import io
import os
import pty
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from service.records.state import Records
from service.views.figures import draw_summary
from service.views.progress import Progress
from service.views.status import as_text, status_of
from service.views.tables import as_markdown, as_tables, make_console, print_whole, summarize


def make(recorder):
    recorder.trial((0.99, 0.60), lam=1e-6)
    recorder.trial((0.98, 0.90), lam=1e-5)
    recorder.trial((0.97, 0.80), optimizer="sgd", regularizer="none")
    recorder.trial(None, status="diverged", lam=0.1)
    for seed, acc, test in ((1, 0.80, 0.70), (2, 0.90, 0.74), (3, 0.85, 0.72)):
        recorder.trial((0.98, acc), lam=1e-5, seed=seed, phase="confirm", test=(0.95, test))
    for seed, acc, test in ((1, 0.70, 0.99), (2, 0.70, 0.99), (3, 0.70, 0.99)):
        options = {"optimizer": "sgd", "regularizer": "none", "seed": seed, "phase": "confirm"}
        recorder.trial((0.97, acc), test=(0.99, test), **options)
    return summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)


def test_the_summary_by_hand(recorder):
    summary = make(recorder)
    arms = {(row["optimizer"], row["regularizer"]): row for row in summary["arms"]}
    curve = {level: cell["value"] for level, cell in arms["sam", "wcr"]["curve"].items()}
    assert curve == {"0": 0.98, "0.9": 0.90}  # the best at the target, with all of its curve
    assert (arms["sam", "wcr"]["lam"], arms["sam", "wcr"]["num_configurations"]) == (1e-5, 2)
    assert arms["sam", "wcr"]["num_trials"] == 3  # one diverged
    assert (arms["sgd", "none"]["lam"], arms["sgd", "none"]["rho"]) == (None, None)
    winner = summary["winner"]
    assert (winner["optimizer"], winner["seeds"]) == ("sam", [1, 2, 3])
    assert winner["validation"]["0.9"] == {"value": pytest.approx(0.85), "spread": pytest.approx(0.05), "n": 3}
    assert winner["test"]["0.9"] == {"value": pytest.approx(0.72), "spread": pytest.approx(0.02), "n": 3}
    assert summary["counts"] == {"finished": 9, "diverged": 1}
    assert summary["failures"][0]["reason"] == "it diverged"


def test_the_winner_is_chosen_by_validation_never_by_test(recorder):
    assert make(recorder)["winner"]["optimizer"] == "sam"  # sgd has 0.99 on the test split


def test_the_tables_say_mean_spread_and_n(recorder):
    summary = make(recorder)
    text = as_markdown(summary)
    assert "Best: sam + wcr, lam 1e-05, rho 0.1, lr 0.1: test acc 0.720 ± 0.020 (n = 3) at sparsity 0.9" in text
    assert "-0.270 against sgd + none, the best without a regularizer (n = 3 paired seeds are too few" in text
    assert "| sam + wcr | 1e-05 | 0.1 | 3 | 0.950 ± 0.000 | 0.720 ± 0.020 |" in text
    console = make_console()
    with console.capture() as capture:
        console.print(as_tables(summary))
    shown = capture.get()
    assert "0.720 ± 0.020" in shown
    assert "diverged: it diverged" in shown
    assert max(len(line) for line in shown.splitlines()) <= 160


def test_the_figure_shows_every_arm(recorder):
    figure = draw_summary(make(recorder))
    labels = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert labels == {"sam + wcr (n = 3, test)", "sgd + none (n = 3, test)"}


def test_without_a_finished_trial_there_is_no_winner(recorder):
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=False)
    assert summary["winner"] is None
    assert "No trial has finished yet." in as_markdown(summary)


def test_further_metrics_stand_in_a_table_of_their_own(recorder):
    for seed, distance in ((1, 4.0), (2, 6.0)):
        recorder.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.7), seed=seed, more={"hausdorff": distance})
    recorder.trial((0.9, 0.8), more={"hausdorff": 9.0})
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    mean = summary["confirmed"][0]["metrics"]["hausdorff"]["0.9"]
    assert (mean["value"], mean["n"]) == (5.0, 2)
    text = as_markdown(summary)
    assert "Further metrics of these at sparsity 0 and 0.9 (test split, mean ± standard deviation)" in text
    assert "| sam + wcr | 1e-05 | 0.1 | 0.9 | 5.000 ± 1.414 |" in text


def test_a_table_is_printed_whole_where_the_terminal_is_narrow(recorder):
    recorder.trial((0.9, 0.8), more={"hausdorff": 9.0})
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    shown = []
    for width in (40, 200):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        print_whole(console, as_tables(summary))
        shown.append([line.rstrip() for line in console.file.getvalue().splitlines()])
    assert shown[0] == shown[1]
    assert max(map(len, shown[0])) > 40


def confirm(recorder, seeds, *, regularizer, validation, test, **more):
    for seed, value in zip(seeds, test, strict=True):
        options = {"regularizer": regularizer, "seed": seed, "phase": "confirm", **more}
        recorder.trial((0.9, validation), test=(0.9, value), **options)


def test_the_search_is_summarized_by_the_mean_over_its_seeds(recorder):
    for seed, accs in enumerate([(0.9, 0.2), (0.7, 0.8)]):
        for lam, acc in zip((1e-6, 1e-5), accs, strict=True):
            recorder.trial((0.99, acc), lam=lam, seed=seed)
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=False)
    assert summary["winner"]["lam"] == 1e-6  # mean 0.8; the other has 0.5
    assert summary["arms"][0]["curve"]["0.9"] == {
        "value": pytest.approx(0.8),
        "spread": pytest.approx(0.02**0.5),
        "n": 2,
    }
    assert "validation acc 0.800 (mean of 2 seeds)" in as_markdown(summary)


def test_a_difference_is_called_a_finding_from_six_paired_seeds_on(recorder):
    recorder.trial((0.9, 0.8))
    for name, seeds in (("few", range(1, 6)), ("enough", range(1, 7))):
        made = type(recorder)(recorder.records.folder.parent / name)
        made.trial((0.9, 0.8))
        confirm(made, seeds, regularizer="wcr", validation=0.8, test=[0.8 + 0.001 * s for s in seeds])
        confirm(made, seeds, regularizer="none", validation=0.7, test=[0.7] * len(seeds))
        summary = summarize(made.records, objective="acc", target_sparsity=0.9, complete=True)
        text = as_markdown(summary)
        made.records.close()
        if name == "few":
            assert "5 | +0.103 | - | - | no: fewer than 6 seeds" in text
            assert "(n = 5 paired seeds are too few to call it a finding; 6 are needed)" in text
        else:
            assert "6 | +0.104 | +0.101 to +0.106 | 0.0312 | yes |" in text  # p = 2 / 2^6
            assert "+0.104 against sam + none, the best without a regularizer (95% interval" in text


def test_holms_correction_covers_every_tested_combination(recorder):
    recorder.trial((0.9, 0.8))
    seeds = range(1, 7)
    for regularizer in ("wcr", "l1"):
        confirm(recorder, seeds, regularizer=regularizer, validation=0.8, test=[0.8 + 0.01 * s for s in seeds])
    confirm(recorder, seeds, regularizer="none", validation=0.7, test=[0.7] * 6)
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    assert {row["regularizer"]: row["against"]["p_holm"] for row in summary["confirmed"] if "against" in row} == {
        "wcr": 2 * 2 / 64,
        "l1": 2 * 2 / 64,
    }


def test_the_winner_is_among_those_with_the_most_seeds(recorder):
    recorder.trial((0.9, 0.8))
    confirm(recorder, [1, 2], regularizer="wcr", validation=0.99, test=[0.9, 0.9])  # dropped, or cut off
    confirm(recorder, [1, 2, 3], regularizer="none", validation=0.8, test=[0.8, 0.8, 0.8])
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    assert summary["winner"]["regularizer"] == "none"
    assert "against_baseline" not in summary["winner"]


def test_collapsed_trials_and_warnings_are_shown(recorder):
    marks = {"collapsed": True, "collapsed_from": 0.9, "warnings": ["collapsed: the network is constant"]}
    recorder.trial((0.9, 0.1), lam=1e-6, more={"collapsed": 0.0})
    key = recorder.trial((0.1, 0.1), lam=1e-5, more={"collapsed": 1.0}, marks=marks)
    recorder.trial((0.9, 0.8), optimizer="sgd", regularizer="none", more={"collapsed": 0.0})
    trial = Records.replay(recorder.records.folder).trials[key]
    assert (trial.collapsed, trial.collapsed_from, trial.warnings) == (True, 0.9, marks["warnings"])
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    assert [row["num_collapsed"] for row in summary["arms"]] == [1, 0]
    assert summary["warnings"] == [{"trial": key, "arm": "sam + wcr", "warning": marks["warnings"][0]}]
    markdown = as_markdown(summary)
    assert "| combination | lam | rho | tried | 0 | 0.9 | collapsed |" in markdown
    assert "| sgd + none | - | - | 1 | 0.900 | 0.800 | 0 |" in markdown
    assert "Further metrics" not in markdown  # it is a mark, no metric
    console = make_console()
    status = status_of(recorder.records.folder)
    assert status["warnings"] == summary["warnings"]
    for shown in (as_tables(summary), as_text(status, recorder.records.folder.parent)):
        with console.capture() as capture:
            console.print(shown)
        assert "collapsed: the network is constant" in capture.get()


def test_without_a_collapsed_trial_there_is_no_column_for_it(recorder):
    recorder.trial((0.9, 0.8))
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    assert "collapsed" not in as_markdown(summary)


def shown_in_terminal(*arguments, **variables):
    """What `python -m sweeps ...` writes to a terminal of 60 columns."""
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 60))
    command = [sys.executable, "-m", "sweeps", *map(str, arguments)]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env={**os.environ, **variables}) as process:
        os.close(terminal)
        shown = b""
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:  # Linux says so when the other end is closed
            pass
        assert process.wait() == 0, shown
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("variables", [{"TERM": "dumb", "COLUMNS": "50"}, {"TERM": "dumb", "COLUMNS": "200"}])
def test_a_dumb_terminal_shows_every_number(recorder, variables, environment_row):
    recorder.records.summarize(make(recorder))
    shown = shown_in_terminal("report", "toy", "--runs", recorder.records.folder.parent, **variables)
    assert "0.950 ± 0.000  0.720 ± 0.020" in shown
    assert "…" not in shown
    environment_row("TERM=dumb, a narrow terminal", "tables are printed whole, whatever COLUMNS says")


def test_a_table_is_printed_where_the_output_has_no_plus_minus(recorder):
    recorder.records.summarize(make(recorder))
    runs = recorder.records.folder.parent
    for command in (["report", "toy"], ["report", "toy", "--markdown"], ["best"]):
        done = subprocess.run(
            [sys.executable, "-m", "sweeps", *command, "--runs", str(runs)],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0, done.stderr
        assert b" +- 0.0" in done.stdout
        assert done.stdout.isascii()


@pytest.mark.parametrize("width", [36, 50, 120])
def test_the_live_table_cuts_labels_and_no_number(width):
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True)
    progress = Progress(console, title="toy", num_trials=1, objective="acc")
    with progress:
        values = {"loss": 0.123, "acc_dense": 0.456, "acc_pruned": 0.789, "epoch": 3, "status": "running"}
        progress.update("a", "s2sam + hoyer_square #7 and more words that do not matter", values, 40)
    shown = console.file.getvalue()
    for number in ("3/40", "0.123", "0.456", "0.789"):
        assert number in shown
