import io
import os
import pty
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from sweeps._figures import draw_summary
from sweeps._progress import Progress
from sweeps._report import as_markdown, as_tables, make_console, print_whole, summarize


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
    assert arms["sam", "wcr"]["curve"] == {"0": 0.98, "0.9": 0.90}  # the best at the target, with all of its curve
    assert (arms["sam", "wcr"]["lam"], arms["sam", "wcr"]["num_trials"]) == (1e-5, 2)
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
    assert "Best: sam + wcr, lam 1e-05, rho 0.1: test acc 0.720 ± 0.020 (n = 3) at sparsity 0.9" in text
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
