import pytest

from service.search.carrying import RULES, SCALES, Setting, factor, rule_of


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("lam", 1.0),
        ("lam / weight_decay", 10.0),
        ("lam / lr", 0.5),
        ("lam / (lr weight_decay)", 5.0),
        ("lam num_weights", 0.25),
    ],
)
def test_factors_by_hand(rule, expected):
    """From weight decay 1e-3, lr 0.2 and 100 weights to 1e-2, 0.1 and 400."""
    there, here = Setting(lr=0.2, weight_decay=1e-3, num_weights=100), Setting(0.1, 1e-2, 400)
    assert factor(rule, there, here) == pytest.approx(expected)
    assert factor(rule, here, there) == pytest.approx(1 / expected)


def test_what_is_unknown_or_zero_changes_nothing():
    for rule in SCALES:
        assert factor(rule, Setting(), Setting(0.1, 1e-2, 400)) == 1.0
        assert factor(rule, Setting(0.1, 0.0, 400), Setting(0.1, 1e-2, 400)) == 1.0


def test_every_regularizer_has_a_known_rule():
    assert {*RULES.values()} <= {*SCALES}
    assert rule_of("my_module:Own") == RULES[""]
