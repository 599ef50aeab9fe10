import pytest

from service.records.best import best
from service.views.console import make_console
from service.views.tables import as_markdown, as_tables, best_table, headline
from tests.service._sweeps import make
from tests.service.conftest import ToySweep, fill
from trainables.pruning_method import PruningMethod


def printed(renderable):
    console = make_console()
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_tables_show_mean_spread_and_number_of_seeds(toy):
    fill(toy)
    text = as_markdown(toy.summary())
    best = "Best: sam + wcr, lam 1e-05, rho 0.1, lr 0.1: test acc 0.720 ± 0.020 at sparsity 0.9 (3 unseen seeds)"
    assert f"**{best}; -0.270 compared with sgd + none, the best arm without a regularizer (3 paired seeds, too" in text
    assert "| arm | lam | rho | seeds | acc dense | acc at 0.9 |" in text
    assert "| sam + wcr | 1e-05 | 0.1 | 3 | 0.950 ± 0.000 | 0.720 ± 0.020 |" in text
    assert "Trials: 1 diverged, 9 finished; 15 s of training in total." in text
    shown = printed(as_tables(toy.summary()))
    assert "0.720 ± 0.020" in shown
    assert "diverged: it diverged" in shown
    assert max(len(line) for line in shown.splitlines()) <= 160


def test_before_a_confirmation_the_headline_is_of_the_search(toy):
    toy.trial((0.99, 0.8))
    text = as_markdown(toy.summary(complete=False))
    assert (
        "Best: sam + wcr, lam 1e-05, rho 0.1, lr 0.1: validation acc 0.800 at sparsity 0.9 (1 seed of the sea" in text
    )
    assert "| sam + wcr | 1e-05 | 0.1 | 1 | 0.990 | 0.800 |" in text
    assert "Confirmation" not in text


def test_without_a_finished_trial_the_headline_says_so(toy):
    assert as_markdown(toy.summary(complete=False)).startswith("**No trial has finished yet.**")


def test_a_learning_rate_has_a_column_where_it_differs(toy):
    toy.trial((0.9, 0.8))
    assert "lr |" not in as_markdown(toy.summary())
    toy.trial((0.9, 0.9), optimizer="sgd", lr=0.5)
    assert "| arm | lam | rho | lr | configurations |" in as_markdown(toy.summary())


def test_other_metrics_have_a_table_of_their_own(toy):
    for seed, distance in ((1, 4.0), (2, 6.0)):
        toy.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.7), seed=seed, more={"hausdorff": distance})
    toy.trial((0.9, 0.8), more={"hausdorff": 9.0})
    text = as_markdown(toy.summary())
    assert "Other metrics of the same configurations at sparsity 0 and 0.9 (test, mean ± standard deviation)" in text
    assert "| sam + wcr | 1e-05 | 0.1 | 0.9 | 5.000 ± 1.414 |" in text


@pytest.mark.parametrize(
    ("num_seeds", "row", "sentence"),
    [
        (5, "| 5 | +0.103 | - | - | no (fewer than 6 seeds) |", "(5 paired seeds, too few to call the difference sig"),
        # p = 2 / 2^6
        (6, "| 6 | +0.104 | +0.101 to +0.106 | 0.0312 | yes |", "(95% interval +0.101 to +0.106, p = 0.031, 6 paired"),
    ],
)
def test_a_difference_can_be_significant_from_six_paired_seeds_on(tmp_path, num_seeds, row, sentence):
    toy, seeds = ToySweep(tmp_path / "toy"), range(1, num_seeds + 1)
    toy.trial((0.9, 0.8))
    toy.confirm(seeds, regularizer="wcr", validation=0.8, test=[0.8 + 0.001 * s for s in seeds])
    toy.confirm(seeds, regularizer="none", validation=0.7, test=[0.7] * num_seeds)
    text = as_markdown(toy.summary())
    toy.recorder.close()
    assert row in text
    assert f"compared with sam + none, the best arm without a regularizer {sentence}" in text


def test_collapsed_trials_have_a_column_and_their_warning_a_line(toy):
    marks = {"warnings": ["collapsed: the network is constant"]}
    toy.trial((0.9, 0.1), lam=1e-6, more={"collapsed": 0.0})
    assert "collapsed" not in as_markdown(toy.summary())
    key = toy.trial((0.1, 0.1), lam=1e-5, more={"collapsed": 1.0}, marks=marks)
    toy.trial((0.9, 0.8), optimizer="sgd", regularizer="none", more={"collapsed": 0.0})
    text = as_markdown(toy.summary())
    assert "| arm | lam | rho | configurations | acc dense | acc at 0.9 | collapsed trials |" in text
    assert "| sgd + none | - | - | 1 | 0.900 | 0.800 | 0 |" in text
    assert f"sam + wcr, trial {key}: collapsed: the network is constant" in text
    assert f"sam + wcr, trial {key}: collapsed: the network is constant" in printed(as_tables(toy.summary()))


def test_the_best_of_all_sweeps_shows_the_settings_that_differ(toy):
    toy.trial((0.9, 0.8), lam=1e-5)
    shown = printed(best_table(best(toy.folder.parent)))
    assert "max epochs" not in shown
    toy.trial((0.9, 0.7), max_epochs=5, model={"width": 8})
    header, *rows = printed(best_table(best(toy.folder.parent, dataset="digits"))).splitlines()[1:]
    assert "max epochs" in header
    cells = [row.split() for row in rows if " 0.9 " in row]
    assert [row[:7] for row in cells] == [
        ["small_resnet", "digits", "sam", "+", "wcr", "width=8", "5"],
        ["small_resnet", "digits", "sam", "+", "wcr", "-", "3"],
    ]
    assert cells[0][-6:-1] == ["0.700", "-", "1", "search", "toy"]  # no MACs were recorded


def test_pruning_methods_are_compared_on_the_same_networks(toy):
    toy.trial((0.9, 0.6), others={"snip uniform": (0.8, None)})
    toy.trial((0.9, 0.5), optimizer="sgd", regularizer="none", others={"snip uniform": (0.7, None)})
    text = as_markdown(toy.summary())
    assert (
        "The same trained networks pruned in 2 ways (the configurations are the best ones by magnitude global)" in text
    )
    assert "| arm | lam | rho | pruning | acc dense | acc at 0.9 |" in text
    assert "| sam + wcr | 1e-05 | 0.1 | snip uniform | 0.900 | 0.800 |" in text
    toy.trial((0.9, 0.4), lam=2e-5)  # a trial that was never pruned so: no comparison of all
    assert "pruned in" not in as_markdown(toy.summary())


def test_a_bar_in_the_label_of_a_pruning_method_does_not_end_its_cell(toy):
    method = PruningMethod(prunable="conv|fc")
    key = toy.trial((0.9, 0.6), others={"snip uniform": (0.8, None)})
    pruned = toy.state.trials[key].pruned
    pruned[method.label] = pruned.pop("snip uniform")
    (row,) = [line for line in as_markdown(toy.summary()).splitlines() if line.startswith("|") and "conv" in line]
    assert r"conv\|fc" in row
    assert row.replace(r"\|", "").count("|") == 7  # around 6 columns


def test_the_number_of_seeds_is_that_of_the_rows(toy):
    """A finalist has three seeds, the configuration of the other arm one."""
    for seed in range(3):
        toy.trial((0.9, 0.7), seed=seed)
    toy.trial((0.9, 0.8), seed=7, lam=1e-6)
    toy.trial((0.9, 0.6), optimizer="sgd", regularizer="none", seed=7)
    summary = toy.summary(complete=False)
    assert "mean ± standard deviation of 1 to 3 seeds" in as_markdown(summary)
    assert headline(summary).endswith("validation acc 0.700 at sparsity 0.9 (3 seeds of the search)")


def test_an_arm_that_violates_a_limit_is_marked(tmp_path):
    toy = ToySweep(tmp_path / "runs" / "small", make(target_sparsity=0.9, max_macs_left=0.4).identity())
    toy.trial((0.95, 0.9), more={"macs_left": 0.7})
    summary = toy.summary()
    assert "| sam + wcr | 1e-05 | 0.1 | 1 | violates --max-macs-left | 0.950 |" in as_markdown(summary)
    assert headline(summary).endswith("no configuration meets the limits, this one violates --max-macs-left)")
    toy.trial((0.9, 0.7), optimizer="sgd", regularizer="none", more={"macs_left": 0.3})
    summary = toy.summary()
    assert "| sgd + none | - | - | 1 | met | 0.900 |" in as_markdown(summary)
    assert headline(summary).startswith("Best: sgd + none")
    toy.recorder.close()


def test_a_table_by_area_and_of_what_was_left_out(tmp_path):
    identity = make(target_sparsity=0.9, sparsities=(0.5,), objective="area", max_dense_drop=0.05).identity()
    toy = ToySweep(tmp_path / "runs" / "area", identity)
    toy.trial((0.95, 0.6))
    toy.trial((0.8, 0.9), lam=2e-5)
    state = toy.state
    state.identity = state.identity | {"trial": state.identity["trial"] | {"sparsities": []}}
    text = as_markdown(toy.summary(complete=False))
    assert "(best by the area under acc against log density)" in text
    assert "| sam + wcr | 1e-05 | 0.1 | 2 | 0.775 | 0.950 | 0.600 |" in text  # the other loses too much before pruning
    toy.recorder.sweep_changed(
        state.identity, left_out=[key for key in state.trials if state.trials[key].config["lam"] == 2e-5]
    )
    assert "1 recorded trial does not fit the sweep since it was changed; the tables do not count it." in as_markdown(
        toy.summary()
    )
    toy.recorder.close()
