import dataclasses
import itertools
import statistics
from types import SimpleNamespace

import pytest
import torch

import sparsity
from benchmarks import _study_answers as answers
from benchmarks import _study_page as page
from benchmarks import study
from benchmarks._best_values import best_entries
from benchmarks._markdown import ALPHA, comparison_table
from benchmarks._study import Study
from service.records.events import EventLog
from service.records.state import State
from service.search.known import published
from service.search.space import make_arms
from tests.sweeps.test_sweeps import cifar_folder  # noqa: F401 (a fixture)

NAMES = ("answers", *study.PARTS, "recalibrated", "first_selection", "criteria", "carried", "added")
SECTIONS = "".join(f"<!-- part: {name} -->\nold\n<!-- end of {name} -->\n" for name in NAMES)


@pytest.fixture
def found(toy, tmp_path):
    """At 0.9, SGD with Hoyer-square keeps 0.8 and a fifth of the MACs, SGD alone 0.5 and half, SAM with WCR 0.5."""
    for (optimizer, regularizer), pruned, left in (
        (("sgd", "none"), 0.5, 0.5),
        (("sgd", "hoyer_square"), 0.8, 0.2),
        (("sam", "wcr"), 0.5, 0.7),
    ):
        for seed in range(2, 9):
            accuracies = (0.8, pruned - 0.001 * seed * (regularizer == "none"))
            more = {"macs_left": left + 0.001 * seed * (regularizer == "none")}
            arm = {"optimizer": optimizer, "regularizer": regularizer, "seed": seed}
            toy.trial(accuracies, phase="confirm", test=accuracies, more=more, **arm)
    sweep = study.BASE.changed(
        target_sparsity=0.9, sparsities=(), dataset="digits", runs=toy.folder.parent, name=toy.folder.name
    )
    part = study.PARTS["width8"]
    return Study((sweep,), part.planned, results=tmp_path).found()


def test_the_smallest_networks_by_hand(found):
    """The highest dense accuracy is 0.8, so 0.72 is needed: Hoyer-square has it at 0.9, the others without pruning."""
    assert page.needed_accuracy(found) == pytest.approx(0.72)
    first, second, *others = page.smallest(found).splitlines()[2:]
    assert first == "| sgd | hoyer_square | 0.9 | 0.800 [0.800, 0.800] | 0.200 [0.200, 0.200] |"
    mean = 0.5 + 0.001 * statistics.fmean(range(2, 9))
    assert second.startswith(f"| sgd | none | 0 | 0.800 [0.800, 0.800] | {mean:.3f} [")
    assert [row.split(" | ")[:3] for row in others] == [["| sam", "wcr", "0"]]


def test_the_sizes_at_the_target_are_those_of_every_arm(found):
    first, _, last = page.sizes_at_target(found).splitlines()[2:]
    assert first == "| sgd | hoyer_square | 0.800 [0.800, 0.800] | 0.200 [0.200, 0.200] |"
    assert last == "| sam | wcr | 0.500 [0.500, 0.500] | 0.700 [0.700, 0.700] |"


def test_sizes_are_compared_with_no_regularizer(found):
    shown = comparison_table(page.size_comparisons(found))
    row = next(line for line in shown.splitlines() if "hoyer_square, against sgd" in line)
    # 0.2 - (0.5 + 0.001 x seed) for seeds 2 to 8: p = 2 / 2^7, of six comparisons that are planned
    assert row.startswith("| sgd + hoyer_square, against sgd + none | 7 | -0.305 | ")
    assert row.endswith(f" | {2 / 2**7:.2g} | {6 * 2 / 2**7:.2g} | no |")
    assert shown.count("| 0 | - |") == 5


def test_the_best_arm_by_validation_is_tested_alone(found):
    shown = page.recommended(found)
    assert "| sgd + hoyer_square, against sgd + none | 7 | +0.305 | " in shown
    assert shown.endswith(f" | {2 / 2**7:.2g} | {2 / 2**7:.2g} | better |")


def test_a_study_is_complete_once_each_arm_has_its_unseen_seeds(found):
    (sweep,) = found.study.sweeps
    for regularizers, num_seeds, expected in (
        (("none", "hoyer_square"), 7, "Search: 0 trials"),
        (("none", "hoyer_square"), 8, "**Not complete:** 0 of 2 arms are confirmed."),
        (("none", "l1"), 7, "**Not complete:** 1 of 2 arms are confirmed."),
    ):
        changed = sweep.changed(optimizer=("sgd",), regularizer=regularizers, num_seeds=num_seeds)
        now = Study((changed,), {}, results=found.study.results).found()
        assert now.progress().startswith(expected)
        assert now.is_complete == expected.startswith("Search")


def test_trials_of_an_earlier_selection_are_not_shown(toy, found):
    """Hoyer-square has seven seeds; a configuration that was selected before has two."""
    for seed in (2, 3):
        arm = {"optimizer": "sgd", "regularizer": "hoyer_square", "seed": seed, "lam": 7e-7}
        toy.trial((0.9, 0.1), phase="confirm", test=(0.9, 0.1), **arm)
    now = found.study.found()
    assert now.at_target(("sgd", "hoyer_square")) == found.at_target(("sgd", "hoyer_square"))
    assert "Confirmation: 21 trials. Of an earlier selection: 2 trials." in now.progress()


def test_of_two_selections_with_equally_many_seeds_the_later_one_counts(toy, found):
    for seed in range(2, 9):
        arm = {"optimizer": "sgd", "regularizer": "hoyer_square", "seed": seed, "lam": 7e-7}
        toy.trial((0.9, 0.6), phase="confirm", test=(0.9, 0.6), **arm)
    now = found.study.found()
    assert set(now.at_target(("sgd", "hoyer_square")).values()) == {0.6}
    assert "Of an earlier selection: 7 trials." in now.progress()


def test_a_search_is_continued_under_another_name(toy, found, tmp_path):
    """With the other's committed records, and an identifier of its own. What it has recorded since is not replaced."""
    (sweep,) = found.study.sweeps
    found.study.export()
    wider = sweep.changed(name="wider", bounds={"opt/lr": (0.02, 2.0)})
    study_of_wider = Study((wider,), {}, results=tmp_path, continued=sweep)
    study_of_wider.begin()
    (state,) = study_of_wider.found().states
    assert state.trials.keys() == toy.state.trials.keys()
    assert state.header["sweep_id"] != toy.state.header["sweep_id"]
    assert study_of_wider.found().at_target(("sgd", "none")) == found.at_target(("sgd", "none"))
    study_of_wider.begin()
    assert State.read(wider.folder).header["sweep_id"] == state.header["sweep_id"]
    nothing = Study((wider.changed(name="other"),), {}, results=tmp_path, continued=wider)
    nothing.begin()
    assert nothing.found().states == []


def test_the_answers_are_beside_each_other(found):
    """A network without results has no column; one with fewer comparisons leaves theirs empty."""
    reduced = Study(found.study.sweeps, study.PARTS["width16"].planned, results=found.study.results).found()
    none = Study((), {}, results=found.study.results).found()
    founds = {"width 8": found, "width 16": reduced, "ViT": none}
    text = answers.answers(founds)
    assert text.count("| comparison | width 8 | width 16 |") == len(found.study.planned)
    (row,) = [line for line in text.splitlines() if line.startswith("| sgd: hoyer_square against none |")]
    # p = 2 / 2^7 times 14 comparisons at width 8, of which three are left at width 16
    assert row == "| sgd: hoyer_square against none | +0.305, open | +0.305, better |"
    assert "| sgd: l1 against none | - |  |" in text
    assert answers.answers({"ViT": none}) == "Nothing has run yet."


def test_the_figure_has_a_symbol_for_each_answer(found):
    """Filled where the corrected test is significant: with fewer comparisons, Hoyer-square against none."""
    reduced = Study(found.study.sweeps, study.PARTS["width16"].planned, results=found.study.results).found()
    figure = answers.draw_answers({"width 8": found, "width 16": reduced})
    symbols = [line for axes in figure.axes for line in axes.lines if line.get_marker() in ("o", "s")]
    drawn = {(line.get_marker(), line.get_markerfacecolor()): line for line in symbols if len(line.get_xdata())}
    assert drawn["s", answers.COLOURS[1]].get_xdata() == pytest.approx([0.305])
    assert ("o", answers.COLOURS[0]) not in drawn
    assert drawn["o", "white"].get_xdata() == pytest.approx([0.305])
    rows = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    expected = [answers.shortened(pair) for pairs in found.study.planned.values() for pair in pairs]
    assert sorted(rows) == sorted([*expected, *found.study.planned])
    assert answers.draw_answers({"width 8": Study((), {}, results=found.study.results).found()}) is None


def test_questions_are_spread_over_columns_of_similar_heights():
    assert answers.in_columns({"a": 9, "b": 16, "c": 16, "d": 8, "e": 8}, 2) == [["a", "b"], ["c", "d", "e"]]
    assert answers.in_columns({"a": 3}, 2) == [["a"]]


def test_a_few_arms_and_the_best_one_are_shown_in_short(toy, found):
    for optimizer, regularizer, seconds in (("sgd", "none", 2.0), ("sgd", "hoyer_square", 3.0), ("sam", "wcr", 5.0)):
        key = toy.trial((0.9, 0.5), optimizer=optimizer, regularizer=regularizer)
        toy.state.trials[key].report["seconds"] = seconds
    shown = page.in_short(dataclasses.replace(found, states=[toy.state]), (("sgd", "wcr"), ("sam", "wcr")))
    assert shown.splitlines()[2:] == [
        "| sam | wcr | 0.800 | 0.500 [0.500, 0.500] | 2.50 |",
        "| sgd | hoyer_square | 0.800 | 0.800 [0.800, 0.800] | 1.50 |",
    ]


def test_costs_are_those_of_the_search_relative_to_plain_sgd(toy, found):
    assert page.costs(found) == ""
    for optimizer, regularizer, seconds in (("sgd", "none", 2.0), ("sgd", "wcr", 3.0), ("sam", "none", 5.0)):
        key = toy.trial((0.9, 0.5), optimizer=optimizer, regularizer=regularizer)
        toy.state.trials[key].report["seconds"] = seconds
    shown = page.costs(dataclasses.replace(found, states=[toy.state]))
    assert "| sgd | 1.00 | 1.50 |" in shown
    assert "| sam | 2.50 | - |" in shown


def test_a_training_that_diverged_counts_as_accuracy_0(toy, tmp_path):
    for seed in (2, 3):
        pair = (0.9, 0.8)
        toy.trial(pair, phase="confirm", test=pair, optimizer="sgd", regularizer="wcr", seed=seed)
    toy.trial((0, 0), phase="confirm", status="diverged", optimizer="sgd", regularizer="wcr", seed=4)
    sweep = study.BASE.changed(sparsities=(), runs=toy.folder.parent, name=toy.folder.name)
    found = Study((sweep,), {}, results=tmp_path).found()
    assert found.at_target(("sgd", "wcr")) == {2: 0.8, 3: 0.8, 4: 0.0}
    assert found.values(("sgd", "wcr"), 0.9, "macs_left") == {}


def test_an_arm_below_the_needed_accuracy_has_no_network(toy, tmp_path):
    for regularizer, accuracy in (("none", 0.9), ("wcr", 0.3)):
        for seed in (2, 3):
            pair = (accuracy, accuracy)
            arm = {"optimizer": "sgd", "regularizer": regularizer, "seed": seed}
            toy.trial(pair, phase="confirm", test=pair, more={"macs_left": 0.5}, **arm)
    sweep = study.BASE.changed(sparsities=(), runs=toy.folder.parent, name=toy.folder.name)
    shown = page.smallest(Study((sweep,), {}, results=tmp_path).found())
    assert shown.splitlines()[-1] == "| sgd | wcr | - | - | - |"


def test_what_an_arm_found_is_an_entry_to_reuse(found, tmp_path):
    """At 0.9, Hoyer-square keeps 0.8, and the others keep less than nine tenths of it."""
    file = tmp_path / "best.toml"
    file.write_text(best_entries(found, "docs/study.md"))
    (known,) = published(file)
    config = found.arms["sgd", "hoyer_square"][0].config
    assert (known.source, known.optimizer, known.regularizer) == ("docs/study.md", "sgd", "hoyer_square")
    assert (known.lam, known.lr, known.weight_decay) == (config["lam"], config["opt"]["lr"], None)
    assert (known.model, known.target_sparsity, known.value, known.n) == (config["model"], 0.9, 0.8, 7)


def test_a_part_that_goes_on_replaces_the_values_of_the_other(monkeypatch, found, tmp_path):
    """Once it is complete; the values would be those of two selections of the same search."""
    (sweep,) = found.study.sweeps
    parts = {
        "first": study.Part("first", (sweep,), {}),
        "later": study.Part("later", (sweep.changed(name="later"),), {}, continued=sweep),
    }
    monkeypatch.setattr(study, "PARTS", parts)
    markers = [f"# <!-- {edge}: {name} of the study on CIFAR-10 -->" for name in parts for edge in ("part", "end")]
    whole = dataclasses.replace(
        found, study=Study((sweep.changed(optimizer=("sgd",), regularizer=("none",), num_seeds=7),), {})
    )
    for founds, expected in (({"first": found, "later": found}, 2), ({"first": found, "later": whole}, 1)):
        file = tmp_path / "best.toml"
        file.write_text("\n".join(markers))
        study.write_best(founds, founds, file)
        assert len(published(file)) == expected


def test_an_arm_without_a_regularizer_is_an_entry_too(toy, tmp_path):
    for seed in (2, 3):
        toy.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.7), optimizer="sgd", regularizer="none", seed=seed)
    toy.trial((0, 0), phase="confirm", status="error", optimizer="sam", regularizer="none", seed=2)  # has no value
    sweep = study.BASE.changed(sparsities=(), runs=toy.folder.parent, name=toy.folder.name)
    file = tmp_path / "best.toml"
    file.write_text(best_entries(Study((sweep,), {}, results=tmp_path).found(), "docs/study.md"))
    (known,) = published(file)
    assert (known.regularizer, known.lam, known.value) == ("none", None, 0.7)


def test_each_planned_difference_can_be_significant():
    """The smallest p of ten pairs, times the number of comparisons of its question, must be below the threshold."""
    for part in study.PARTS.values():
        for sweep in part.sweeps:
            assert not sweep.race
            assert max(map(len, part.planned.values())) * 2 / 2**sweep.num_seeds < ALPHA
        arms = {arm for sweep in part.sweeps for arm in itertools.product(sweep.optimizer, sweep.regularizer)}
        assert {arm for pairs in part.planned.values() for pair in pairs for arm in pair} <= arms


@pytest.mark.parametrize("name", study.PARTS)
def test_the_network_of_each_part_has_ten_classes(name):
    """On the meta device, where ResNet-18 costs nothing."""
    trial = study.PARTS[name].sweeps[0].trial
    with torch.device("meta"):
        network = sparsity.load("trainables.architectures", trial.architecture)(10, **trial.model)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)


def test_the_tiny_form_of_a_part_has_its_arms_and_network():
    for part in study.PARTS.values():
        for whole, tiny in zip(part.sweeps, study.tiny(part).sweeps, strict=True):
            assert (tiny.optimizer, tiny.regularizer) == (whole.optimizer, whole.regularizer)
            assert tiny.trial.model == whole.trial.model
            assert tiny.trial.train_size == 32


def test_a_lam_is_carried_to_the_tuned_configuration(toy, found, tmp_path):
    """With the lr and weight decay of the network that is trained, and the seeds of its confirmation."""
    toy.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.8), optimizer="sgd", regularizer="wcr", seed=2, lam=7e-6)
    here = Study(found.study.sweeps, {}, results=tmp_path).found()
    ((title, sweep),) = [entry for entry in study.carried_sweeps(here, {"digits": here}) if "wcr" in entry[1].name]
    assert (title, sweep.lam, sweep.regularizer) == ("digits", 7e-6, ("wcr",))
    (arm,) = make_arms(sweep)
    assert arm.space == {}
    assert sweep.trial.opt == here.arms["sgd", "wcr"][0].config["opt"]
    assert (sweep.num_seeds, sweep.num_search_seeds) == (here.sweep.num_seeds, here.sweep.num_search_seeds)
    assert study.carried_sweeps(here, {"nothing": Study((), {}, results=tmp_path).found()}) == []


def test_recalibrated_accuracies_are_those_of_whole_arms(toy, tmp_path):
    """WCR lacks one of its two networks; Hoyer-square has 0.3 as pruned and 0.7 recalibrated."""
    label = study.RECALIBRATED.label
    for regularizer, seed in (("hoyer_square", 2), ("hoyer_square", 3), ("wcr", 2), ("wcr", 3)):
        arm = {"optimizer": "sgd", "regularizer": regularizer, "seed": seed}
        key = toy.trial((0.8, 0.3), phase="confirm", test=(0.8, 0.3), **arm)
        rows = [{"sparsity": 0.9, "acc": 0.7}]
        if (regularizer, seed) != ("wcr", 3):
            toy.state.trials[key].pruned[label] = {"label": label, "curve": rows, "test": rows}
    sweep = study.BASE.changed(sparsities=(), runs=toy.folder.parent, name=toy.folder.name)
    found = dataclasses.replace(Study((sweep,), {}, results=tmp_path).found(), states=[toy.state])
    shown = page.recalibrated_section(found, study.RECALIBRATED).splitlines()
    assert shown[0] == "| optimizer | regularizer | n | 0.9 as pruned | 0.9 recalibrated |"
    assert shown[2:] == ["| sgd | hoyer_square | 2 | 0.300 [0.300, 0.300] | 0.700 [0.700, 0.700] |"]


def test_rules_for_lam_are_compared_with_the_tuned_one():
    """Twice the lam at a quarter of the weight decay is eight times the ratio."""
    arm = ("sgd", "wcr")
    here, there = (
        SimpleNamespace(
            arms={arm: [SimpleNamespace(config={"regularizer": "wcr", "lam": lam, "opt": {"weight_decay": decay}})]}
        )
        for lam, decay in ((1e-5, 0.02), (2e-5, 0.005))
    )
    *_, row = page.lam_ratios(here, {"there": there}, [arm, ("sgd", "l1")]).splitlines()
    assert row == "| sgd + wcr | there | 2e-05 | 0.005 | 2 | 8 |"


def test_an_earlier_selection_is_shown_with_others_on_the_same_seeds(toy, tmp_path):
    """Accuracies depend on the seed, so a mean over other seeds would be another number."""
    label = study.RECALIBRATED.label
    for regularizer, lr, seeds, gain in (
        ("none", 0.1, (2, 3), 0.4),  # the first selection
        ("none", 0.2, (2, 3, 4), 0.2),
        ("l1", 0.1, (2, 3, 4), 0.3),
        ("wcr", 0.1, (2, 4, 5), 0.5),  # seed 3 is missing
    ):
        for seed in seeds:
            arm = {"optimizer": "sgd", "regularizer": regularizer, "seed": seed, "lr": lr}
            key = toy.trial((0.8, 0.1), phase="confirm", test=(0.8, 0.1), **arm)
            toy.state.trials[key].pruned[label] = {"label": label, "test": [{"sparsity": 0.9, "acc": gain + seed / 10}]}
    sweep = study.BASE.changed(sparsities=(), runs=toy.folder.parent, name=toy.folder.name)
    found = dataclasses.replace(Study((sweep,), {}, results=tmp_path).found(), states=[toy.state])
    shown = page.first_selection_section(found, study.RECALIBRATED).splitlines()
    assert shown[2:] == [
        "| sgd | none | first | 0.1 | - | 2 | 0.100 | 0.650 |",
        "| sgd | l1 | second | 0.1 | - | 2 | 0.100 | 0.550 |",
        "| sgd | none | second | 0.2 | - | 2 | 0.100 | 0.450 |",
    ]
    few = page.first_selection_section(found, study.RECALIBRATED, num_shown=1).splitlines()
    assert few[2:] == shown[2:4]


def test_wcr_is_added_to_what_was_selected_without(toy, found, tmp_path):
    """Only lam is searched; the confirmation has the seeds of the other."""
    (sweep,) = study.added_sweeps(found)  # SAM and S2SAM are not confirmed without a regularizer
    (arm,) = make_arms(sweep)
    assert (arm.name, list(arm.space)) == ("sgd + wcr", ["lam"])
    assert sweep.trial.opt == found.arms["sgd", "none"][0].config["opt"]
    assert (sweep.num_seeds, sweep.first_unseen_seed) == (found.sweep.num_seeds, found.sweep.first_unseen_seed)
    for seed in range(2, 9):
        pair = (0.8, 0.7 - 0.001 * seed)
        toy.trial(pair, phase="confirm", test=pair, optimizer="sgd", regularizer="wcr", seed=seed, lam=7e-6)
    changed = sweep.changed(runs=toy.folder.parent, name=toy.folder.name)
    added = Study((changed,), {}, results=tmp_path).found()
    shown = page.added_section(found, added, study.ADDED_TO).splitlines()
    # 0.7 - 0.5 for each of seven seeds: p = 2 / 2^7, of three comparisons that are planned
    p = 2 / 2**7
    assert shown[2].startswith("| sgd + wcr (lam 7e-06), against sgd + none | 7 | +0.200 | +0.200 to +0.200 | ")
    assert shown[2].endswith(f" | {p:.2g} | {3 * p:.2g} | better |")
    assert shown[4] == "| s2sam + wcr, against s2sam + none | 0 | - | - | - | - | - |"


@pytest.mark.slow
@pytest.mark.sweep
def test_the_command_runs_a_part_and_goes_on(cifar_folder, tmp_path):  # noqa: F811
    """The Vision Transformer's part, as a user would try it."""
    written = tmp_path / "study.md"
    written.write_text(f"above\n{SECTIONS}below\n")
    arguments = ["--tiny", "--part", "vit", "--runs", str(tmp_path / "runs"), "--data-root", str(cifar_folder)]
    study.main([*arguments, "--page", str(written)])
    text = written.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "Search: 9 trials" in text
    assert "Confirmation: 9 trials." in text
    assert text.count("\nold\n") == len(study.PARTS) - 1
    for name in ("recalibrated", "first_selection", "criteria", "carried", "added"):
        section = text.partition(f"<!-- part: {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
        assert "Nothing has run yet." in section, name
    assert "| comparison | ViT |" in text
    assert written.with_name("study-vit.png").stat().st_size > 10_000
    log = tmp_path / "runs" / "cifar10_methods_vit_tiny" / "events.jsonl"
    trained = [entry["trial"] for entry, _ in EventLog.read(log) if entry["event"] == "end"]
    assert len(trained) == 18
    study.main([*arguments, "--page", str(written)])
    assert [entry["trial"] for entry, _ in EventLog.read(log) if entry["event"] == "end"] == trained


def test_ctrl_c_ends_without_a_traceback(monkeypatch, tmp_path):
    def interrupted(sweep):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.Sweep, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        study.main(["--tiny", "--part", "vit", "--runs", str(tmp_path)])
    assert stopped.value.code == 130


def test_the_plan_names_every_part():
    text = study.PAGE.read_text()
    for name in NAMES:
        assert text.count(f"<!-- part: {name} -->") == text.count(f"<!-- end of {name} -->") == 1
