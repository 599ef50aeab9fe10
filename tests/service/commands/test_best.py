import json

import pytest


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), [0.9]), (("--all",), [0.0, 0.9]), (("--sparsity", "0"), [0.0])],
    ids=["target", "all", "0"],
)
def test_best_shows_the_target_sparsity_unless_asked_for_others(toy, sweeps, flags, expected):
    toy.trial((0.9, 0.8))
    shown, code = sweeps("best", "--json", *flags)
    assert (code, [row["sparsity"] for row in json.loads(shown)]) == (0, expected)
