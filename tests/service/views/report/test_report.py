"""The report of a sweep: its numbers are those of the records."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from service.commands import app
from service.statistics import interval_of_mean
from service.views.report import FORMATS, make_report, write_report
from service.views.report.blocks import Items, Plot, Table, Text
from service.views.report.sections.budget import best_so_far
from tests.service.conftest import fill


@pytest.fixture
def filled(toy):
    fill(toy)
    toy.recorder.summarized(toy.summary())
    return toy


def section(report, title):
    (found,) = [section for section in report.sections if section.title == title]
    return found


def blocks(report, title, kind):
    return [block for block in section(report, title).blocks if isinstance(block, kind)]


class Page(HTMLParser):
    """What a browser would load, and the page's words and cells."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.words, self.ids, self.cells = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.cells and self.lasttag in ("td", "strong"):
            self.cells[-1] += data.strip()


def test_cells_are_means_and_intervals_of_the_records(filled):
    results, configurations, *_ = (
        {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
        for table in blocks(make_report([filled.state]), "Methods compared", Table)
    )
    low, high = interval_of_mean([0.70, 0.74, 0.72])
    assert results["sam + wcr"] == ["3", "0.950 [0.950, 0.950]", f"0.720 [{low:.3f}, {high:.3f}]"]
    assert configurations["sam + wcr"] == ["1e-05", "0.1"]
    assert results["sgd + none"][-1] == "0.990 [0.990, 0.990]"
    assert (round(low, 3), round(high, 3)) == (0.670, 0.770)  # 0.72 -+ t(0.975, 2) 0.02 / sqrt(3), t = 4.303


def test_an_arm_without_a_regularizer_that_selected_another_configuration_has_one_row(toy):
    for lr, acc in ((0.1, 0.7), (0.2, 0.8)):
        toy.trial((0.9, acc), regularizer="none", lr=lr)
        toy.confirm((1, 2), regularizer="none", lr=lr, validation=acc, test=[acc, acc])
    report = make_report([toy.state])
    results = blocks(report, "Methods compared", Table)[0]
    assert [[cell.text for cell in row][::3] for row in results.rows] == [["sam + none", "0.800 [0.800, 0.800]"]]
    words = " ".join(block.text for block in blocks(report, "Failures, commands and versions", Text))
    assert "sam + none, rho 0.1, lr 0.1 (2 unseen seeds). The tables do not count it." in words


def test_seeds_from_before_a_sparsity_was_added_count(toy):
    toy.trial((0.9, 0.8))
    toy.confirm((1, 2), validation=0.8, test=[0.8, 0.8])
    toy.confirm((3,), validation=0.8, test=[0.5], sparsities=(0.5,))
    row = blocks(make_report([toy.state]), "Methods compared", Table)[0].rows[0]
    assert row[1].text == "3"
    assert row[-1].text.startswith("0.700 ")  # (0.8 + 0.8 + 0.5) / 3


def test_curves_show_every_seed(filled):
    (plot,) = blocks(make_report([filled.state]), "Accuracy against sparsity", Plot)
    titles = {axes.get_title(): axes for axes in plot.figure.axes}
    dots = [line.get_ydata() for line in titles["sam"].lines if line.get_marker() == "." and line.get_alpha()]
    assert [sorted(values) for values in dots] == [[0.95, 0.95, 0.95], [0.70, 0.72, 0.74]]
    (mean,) = [line.get_ydata() for line in titles["sam"].lines if line.get_label() == "wcr"]
    np.testing.assert_allclose(mean, [0.95, 0.72])


def test_few_seeds_say_nothing(filled):
    report = make_report([filled.state])
    words = " ".join(block.text for block in blocks(report, "Methods compared", Text))
    assert "Nothing can be said about which method is better" in words
    assert "here n = 3" in words
    assert not any(
        cell.bold for table in blocks(report, "Methods compared", Table) for row in table.rows for cell in row
    )


def test_a_real_difference_is_significant(toy):
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 12))
    seeds = range(100, 112)
    toy.trial((0.9, 0.9))
    toy.confirm(seeds, validation=0.9, test=0.9 + noise[0])
    toy.confirm(seeds, validation=0.8, test=0.8 + noise[1], regularizer="none")
    report = make_report([toy.state])
    table = blocks(report, "Methods compared", Table)[0]
    assert [row[0].text for row in table.rows] == ["sam + wcr", "sam + none"]
    assert [[cell.bold for cell in row].index(True) if row[-1].bold else None for row in table.rows] == [3, None]
    result = " ".join(block.text for block in blocks(report, "Result", Text))
    assert "The winner is better than the best arm without a regularizer on the test split" in result


def test_further_seeds_of_finalists_do_not_change_what_the_search_reached(toy):
    for lam, accuracies in ((1e-6, (0.9, 0.1, 0.1)), (1e-5, (0.8, 0.8, 0.8))):
        for seed, accuracy in enumerate(accuracies):
            toy.trial((0.99, accuracy), lam=lam, seed=seed)
    running = best_so_far(SimpleNamespace(state=toy.state, search=toy.state.finished("search")))
    assert running == {"sam + wcr": [0.9, 0.9]}


def test_trials_that_are_not_pruned_to_the_target_yet_are_left_out(toy):
    """As after a new target, while some trials are not pruned again."""
    for index in range(3):
        toy.trial((0.9, 0.5 + 0.1 * index), lam=10.0 ** (index - 6))
    *_, last = toy.state.trials.values()
    last.pruned["magnitude global"]["curve"].pop()
    plots = blocks(make_report([toy.state]), "Sensitivity to the hyperparameters", Plot)
    (axes,) = plots[0].figure.axes
    dots = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.9, 0.9], [0.5, 0.6]]


def test_a_sweep_without_a_trial_pruned_to_the_target_is_refused(toy):
    toy.trial((0.9, 0.5))
    (trial,) = toy.state.trials.values()
    trial.pruned["magnitude global"]["curve"].pop()
    with pytest.raises(
        ValueError, match=r"toy must have a finished trial that is pruned to sparsity 0\.9, got none of 1"
    ):
        make_report([toy.state])


def test_a_hyperparameter_that_is_0_in_one_trial_has_no_importance(toy):
    for index in range(8):
        toy.trial((0.9, 0.1 * index), lam=10.0 ** (index - 9), rho=0.1 * index)
    (table,) = blocks(make_report([toy.state]), "Which hyperparameters mattered", Table)
    assert [[cell.text for cell in row] for row in table.rows] == [["sam + wcr", "8", "1.00", "-", "-", "-"]]


def test_failures_cost_and_budget(filled):
    report = make_report([filled.state])
    (failures,) = blocks(report, "Failures, commands and versions", Table)
    assert [cell.text for cell in failures.rows[0]][2:] == ["diverged", "it diverged"]
    (cost,) = blocks(report, "Time and trials", Table)
    # 4 trials of the search and 6 of the confirmation, 1.5 s and 2 epochs each
    assert [cell.text for cell in cost.rows[-1]] == ["in total", "10", "20", "15 s", "2 s"]
    (budget,) = blocks(report, "Was the budget enough?", Table)
    assert {row[0].text: row[1].text for row in budget.rows} == {"sam + wcr": "2", "sgd + none": "1"}
    versions = " ".join(
        item for block in blocks(report, "Failures, commands and versions", Items) for item in block.items
    )
    assert "torch: " in versions
    assert "fingerprint of the data: toy" in versions


def test_layers_are_those_of_the_winner_and_of_the_best_without_its_regularizer(filled):
    tables = blocks(make_report([filled.state]), "Layers", Table)
    assert [table.caption.split(".")[0] for table in tables] == ["Layers of sam + wcr", "Layers of sgd + none"]
    assert [cell.text for cell in tables[0].rows[0]] == ["stem.weight", "2 x 2", "4", "50.00%", "75.00%"]


def test_operations_left_are_drawn_where_they_are_recorded(toy, filled):
    assert [plot.name for plot in blocks(make_report([filled.state]), "What pruning costs", Plot)] == ["tradeoffs"]
    toy.trial((0.9, 0.8), lam=3e-5, more={"macs_left": 0.25})
    _, plot = blocks(make_report([toy.state]), "What pruning costs", Plot)
    (axes,) = plot.figure.axes
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] == [([0.25], [0.8])]


def test_without_trial_folders_the_rest_is_there(filled):
    for folder in (filled.folder / "trials").iterdir():
        (folder / "result.json").unlink(missing_ok=True)
    report = make_report([filled.state])
    assert "cannot be shown" in blocks(report, "Layers", Text)[0].text


def test_the_page_needs_no_network_and_shows_every_number(filled, tmp_path):
    report = make_report([filled.state])
    write_report(report, "html", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids))
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links <= set(page.ids)
    cells = [c.text for s in report.sections for b in s.blocks if isinstance(b, Table) for row in b.rows for c in row]
    assert sorted(page.cells) == sorted(" ".join(cell.split()) for cell in cells)
    assert text.count("<svg") == sum(isinstance(block, Plot) for s in report.sections for block in s.blocks)


def test_words_of_a_user_are_no_markup(toy, tmp_path):
    toy.trial((0.9, 0.5), marks={"warnings": ["<script>alert(1)</script> & more"]})
    write_report(make_report([toy.state]), "html", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_the_same_records_give_the_same_page(filled, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(make_report([filled.state]), "html", tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_markdown_and_latex_have_the_same_tables(filled, tmp_path):
    report = make_report([filled.state])
    for form, (ending, _) in FORMATS.items():
        write_report(report, form, tmp_path / f"report{ending}")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| sam + wcr | 3 | 0.950 [0.950, 0.950] |" in markdown
    for figure in re.findall(r"\]\((report/.*?\.png)\)", markdown):
        assert (tmp_path / figure).stat().st_size > 1000
    latex = (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert r"sam + wcr & 3 & 0.950 [0.950, 0.950] &" in latex
    assert r"stem.weight & 2 x 2 & 4 & 50.00\% & 75.00\%" in latex
    assert latex.count(r"\toprule") == latex.count(r"\begin{tabular}") > 5
    for figure in re.findall(r"includegraphics.*?\{(report/.*?\.pdf)\}", latex):
        assert (tmp_path / figure).read_bytes().startswith(b"%PDF")


def test_the_command(filled, monkeypatch):
    runs = ["--runs", str(filled.folder.parent)]
    done = CliRunner().invoke(app, ["report", "toy", *runs])
    assert done.exit_code == 0, done.output
    path = filled.folder / "report.html"
    assert f"Report: {path}" in done.output
    assert path.exists()
    done = CliRunner().invoke(app, ["report", *runs, "--format", "markdown", "--to", str(filled.folder / "x.md")])
    assert done.exit_code == 0
    assert (filled.folder / "x.md").exists()
    to = filled.folder / "bare"
    done = CliRunner().invoke(app, ["report", "toy", *runs, "--format", "markdown", "--to", str(to)])
    assert (done.exit_code, to.exists()) == (2, False)
    assert f"to: must end in .md (its figures go to {to}), got {to}" in done.output
    done = CliRunner().invoke(app, ["report", "toy", *runs, "--format", "pdf"])
    assert done.exit_code == 2
    assert "format: must be one of html, markdown, latex, text, got 'pdf'" in done.output


def test_a_sweep_without_a_finished_trial_is_refused(toy):
    toy.trial(None, status="diverged")
    with pytest.raises(ValueError, match="toy must have a finished trial, got none so far"):
        make_report([toy.state])


def test_code_of_ones_own_is_shown_by_its_short_name(toy, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from trainables.architectures.small_resnet import small_resnet as build\n"
        "class Nudged(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, rho):\n"
        "        super().__init__(params, lr)\n"
    )
    names = {name: f"{tmp_path}/mine.py:{attribute}" for name, attribute in (("net", "build"), ("step", "Nudged"))}
    for seed in (0, 1):
        for optimizer in (names["step"], "sgd"):
            own = {"optimizer": optimizer, "rho": 0.1, "architecture": names["net"], "seed": seed}
            toy.trial((0.9, 0.7 + 0.01 * seed), **own)
    toy.recorder.summarized(toy.summary())
    report = make_report([toy.state])
    for form in FORMATS:
        write_report(report, form, tmp_path / f"page.{form}")
        page = (tmp_path / f"page.{form}").read_text()
        assert "mine:Nudged" in page
        assert str(tmp_path) not in page
