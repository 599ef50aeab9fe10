"""The analysis of the contest, on synthetic results that follow a known rule."""

import itertools
import math

import numpy as np
import pytest

from benchmarks import _transfer_page
from benchmarks import _transfer_rules as rules
from benchmarks.transfer import LAMS, SETTINGS
from service.search.known import published

QUANTITIES = {
    "lam": lambda setting, weights: 1.0,
    "lam / weight_decay": lambda setting, weights: 1 / setting.weight_decay,
    "lam / lr": lambda setting, weights: 1 / setting.lr,
    "lam / (lr weight_decay)": lambda setting, weights: 1 / (setting.lr * setting.weight_decay),
    "lam num_weights": lambda setting, weights: weights,
}


def peaked(factor, *, noise=0.0, seed=0, share=lambda lam, setting: lam):
    """Curves whose accuracy is 0.9 - 0.1 d^2 at d decades from the best lam, where lam times `factor` is constant."""
    generator = np.random.default_rng(seed)
    lams = np.array(LAMS["wcr"])
    weights = {setting: rules.count_weights(setting.width) for setting in SETTINGS}
    middle = np.mean([math.log10(factor(setting, weights[setting])) for setting in SETTINGS]) + np.log10(lams).mean()
    curves = []
    for setting in SETTINGS:
        best = middle - math.log10(factor(setting, weights[setting]))

        def accuracy(best=best):
            return 0.9 - 0.1 * (np.log10(lams) - best) ** 2 + noise * generator.standard_normal(len(lams))

        shares = np.array([share(lam, setting) for lam in lams])
        curves.append(rules.Curve(setting, 0.9, lams, accuracy(), accuracy(), shares, shares, weights[setting]))
    return curves


@pytest.mark.parametrize(("truth", "prediction"), list(itertools.product(QUANTITIES, rules.PREDICTIONS)))
def test_the_true_rule_has_the_least_regret(truth, prediction):
    curves = peaked(QUANTITIES[truth], noise=0.005)
    means = {rule: np.mean(list(rules.regrets(curves, rule, prediction).values())) for rule in QUANTITIES}
    assert min(means, key=means.get) == truth
    assert means[truth] < 0.02  # the noise, and half a step of the grid
    assert all(mean > 1.3 * means[truth] for rule, mean in means.items() if rule != truth)


def test_regrets_by_hand():
    """Three learning rates, each ten times the last; so is the best lam. Accuracy falls by 0.1 a decade."""
    lams, curves = np.logspace(-6, 0, 7), []
    for lr, best in ((0.01, -4), (0.1, -3), (1.0, -2)):
        accuracy = 0.9 - 0.1 * np.abs(np.log10(lams) - best)
        curves.append(rules.Curve(rules.Setting(8, 0.01, lr), 0.9, lams, *[accuracy] * 2, *[lams] * 2, num_weights=10))
    # Between the best values of the other two, their mean loss is constant: the rule takes the middle.
    assert list(rules.regrets(curves, rules.BY_LAM).values()) == pytest.approx([0.15, 0.0, 0.15], abs=1e-3)
    assert list(rules.regrets(curves, rules.BY_LAM, "one other").values()) == pytest.approx([0.15, 0.1, 0.15], abs=1e-3)
    for prediction in rules.PREDICTIONS:
        assert list(rules.regrets(curves, "lam / lr", prediction).values()) == pytest.approx([0.0] * 3, abs=1e-3)


def test_decades_by_hand():
    """The best lam is 10 and 100 times that of the first setting: pairs are 1, 2, 1, 1, 2 and 1 decades apart."""
    lams = np.logspace(-6, 0, 7)
    curves = [
        rules.Curve(
            rules.Setting(8, 0.01, lr), 0.9, lams, *[-np.abs(np.log10(lams) - best)] * 2, *[lams] * 2, num_weights=10
        )
        for lr, best in ((0.01, -4), (0.1, -3), (1.0, -2))
    ]
    assert sorted(rules.decades_off(curves, rules.BY_LAM)) == pytest.approx([1, 1, 1, 1, 2, 2], abs=1e-6)
    assert rules.decades_off(curves, "lam / lr") == pytest.approx(np.zeros(6), abs=1e-6)


def test_a_measured_share_finds_what_no_setting_says():
    def share(lam, setting):
        return lam * (1 + setting.width) ** 2 / setting.lr**3

    curves = peaked(lambda setting, weights: share(1.0, setting), share=share)
    means = {rule: np.mean(list(rules.regrets(curves, rule).values())) for rule in rules.RULES}
    assert means["penalty share at the end"] == means["penalty share at the start"] == min(means.values())
    assert means["penalty share at the start"] < 0.01 < means[rules.BY_LAM]


def test_references_are_the_own_search_and_no_knowledge():
    curves = peaked(QUANTITIES["lam"])
    assert max(rules.regrets(curves, "(own search)").values()) == 0.0
    curves = peaked(QUANTITIES["lam / weight_decay"])
    lams = np.log10(curves[0].lams)
    for index, regret in rules.regrets(curves, "(middle of the range)").items():
        curve = curves[index]
        assert regret == pytest.approx(curve.test.max() - np.interp((lams[0] + lams[-1]) / 2, lams, curve.test))


def test_the_bootstrap_interval_covers_the_mean():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        low, high = rules.bootstrap_interval(generator.exponential(0.02, size=18))
        covered += low <= 0.02 <= high
    assert 0.83 <= covered / 150 <= 0.98  # a percentile interval of 18 skewed values covers about 0.91


def test_a_setting_without_effect_of_lam_has_no_regret():
    curves = [
        rules.Curve(setting, 0.5, np.array([1e-4, 1e-3]), *[np.array([0.8, 0.8])] * 4, num_weights=10)
        for setting in SETTINGS[:3]
    ]
    for rule in rules.RULES:
        assert set(rules.regrets(curves, rule).values()) == {0.0}


# ---- the table -----------------------------------------------------------------------------------------------------


def row(width, lam, accuracies, *, seed=0, share="0.1"):
    labels = {"regularizer": "wcr", "width": width, "weight_decay": 0.005, "lr": 0.1, "lam": lam, "seed": seed}
    levels = dict(zip(("0", *(f"{level:g}" for level in rules.LEVELS)), accuracies, strict=True))
    shares = {"penalty_share_start": share, "penalty_share_end": share}
    return labels | shares | {f"{split} {level}": a for split in ("validation", "test") for level, a in levels.items()}


def write(path, rows):
    import csv
    import gzip

    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_the_target_is_the_highest_sparsity_that_keeps_nine_tenths(tmp_path):
    good = [1.0, 1.0, 1.0, 0.95, 0.92, 0.91, 0.89, 0.5, 0.2, 0.1]  # dense, then 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, ...
    poor = [0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    write(tmp_path / "t.csv.gz", [row(8, 1e-3, poor), row(8, 1e-4, good), row(8, 1e-4, poor, seed=1)])
    (curve,) = rules.read_curves(tmp_path / "t.csv.gz")["wcr"]
    # lam 1e-4: means 0.95, 0.95, 0.9, 0.825, ...: only 0.5 and 0.6 keep 0.9 of 0.95
    assert curve.target == 0.6
    assert curve.lams.tolist() == [1e-4, 1e-3]
    assert curve.validation == pytest.approx([0.9, 0.8])
    assert curve.num_seeds == 1
    # stem 9 * 8, blocks 18 * 64 + (8 * 16 + 16^2) * 9 + (16 * 32 + 32^2) * 9, shortcuts 8 * 16 + 16 * 32, head 32 * 10
    assert curve.num_weights == 72 + 1152 + 3456 + 13824 + 640 + 320


def test_diverged_trainings_count_as_zero_and_their_share_follows_lam(tmp_path):
    rows = [row(8, lam, [0.9] * 10, share=lam * 10) for lam in (1e-4, 1e-3)]
    diverged = {
        name: "" if name.startswith(("validation", "test", "penalty")) else value for name, value in rows[0].items()
    }
    write(tmp_path / "t.csv.gz", [*rows, {**diverged, "lam": 1e-2}])
    (curve,) = rules.read_curves(tmp_path / "t.csv.gz")["wcr"]
    assert curve.validation.tolist() == [0.9, 0.9, 0.0]
    assert curve.share_start == pytest.approx([1e-3, 1e-2, 1e-1])


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_names_the_best_rule_and_keeps_what_people_wrote(tmp_path):
    curves = {  # with two of three widths, so that the permutation tests are fast
        "wcr": peaked(QUANTITIES["lam / weight_decay"], noise=0.001)[:12],
        "hoyer_square": peaked(QUANTITIES["lam"])[:12],
    }
    page = tmp_path / "transfer.md"
    page.write_text("above\n<!-- a -->\nold\n<!-- b -->\nbelow\n")
    _transfer_page.write(curves, page, "<!-- a -->", "<!-- b -->")
    text = page.read_text()
    assert text.startswith("above\n<!-- a -->\n\n**Not complete:** 288 of 1296 trainings. ")
    assert text.endswith("<!-- b -->\nbelow\n")
    assert "old" not in text
    assert "- **wcr**: `lam / weight_decay` has the least regret" in text
    assert "and the difference is significant" in text
    assert "- **hoyer_square**: an unchanged lam has the least regret (" in text
    row = next(line for line in text.splitlines() if line.startswith("| wcr: (lam / weight_decay) - (lam) |"))
    assert row.split("|")[2].strip() == "12"
    assert row.endswith("| lower |")
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="must have <!-- a --> and, after it, <!-- c -->, got"):
        _transfer_page.write(curves, page, "<!-- a -->", "<!-- c -->")


def test_the_best_lam_of_a_setting_is_an_entry_to_reuse(tmp_path):
    """The best by validation, with its neighbours within 0.01, and its accuracy on the test split."""
    lams = np.array([1e-4, 1e-3, 1e-2, 1e-1])
    validation, test = np.array([0.5, 0.895, 0.9, 0.7]), np.array([0.6, 0.88, 0.87, 0.7])
    curve = rules.Curve(rules.Setting(8, 5e-4, 0.1), 0.94, lams, validation, test, lams, lams, 1, num_seeds=3)
    file = tmp_path / "best.toml"
    file.write_text(_transfer_page.best_entries({"wcr": [curve]}))
    (known,) = published(file)
    assert (known.lam, known.lam_range, known.value, known.n) == (1e-2, [1e-3, 1e-2], 0.87, 3)
    assert (known.model, known.weight_decay, known.target_sparsity) == ({"width": 8, "depth": 3}, 5e-4, 0.94)
    # a 3x3 stem, blocks of (8, 8), (8, 16) and (16, 32) channels with 3x3 convolutions, two 1x1 shortcuts
    blocks = 9 * (8 * 8 * 2 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32)
    assert known.num_prunable == 9 * 8 + blocks + 8 * 16 + 16 * 32
