import pytest

from benchmarks import cifar10_samplers as samplers
from benchmarks._study import Study
from service.search.space import make_arms
from tests.service.conftest import ToySweep


def test_all_searches_have_the_same_space_and_start():
    sweeps = {search: samplers.sweep_of(*search, 100) for search in samplers.SEARCHES}
    spaces = [arm.space for sweep in sweeps.values() for arm in make_arms(sweep)]
    assert spaces == [spaces[0]] * len(samplers.SEARCHES)
    assert set(spaces[0]) == {"lam", "opt/weight_decay"}
    assert [sweep.trial.seed for sweep in sweeps.values()] == [100] * 3
    assert len({sweep.name for sweep in sweeps.values()}) == 3
    assert [sweep.adopt for sweep in sweeps.values()] == [(), ("c10_tpe_100",), ()]


def test_the_table_by_hand(tmp_path):
    found = {}
    for search, accuracies in zip(samplers.SEARCHES, ((0.5, 0.52), (0.4, 0.42), (0.49, 0.5)), strict=True):
        toy = ToySweep(tmp_path / f"{search}")
        for seed, accuracy in enumerate(accuracies, 1):
            pair = (0.9, accuracy)
            arm = {"optimizer": "sgd", "regularizer": "hoyer_square", "seed": seed}
            toy.trial(pair, phase="confirm", test=pair, lam=3e-4, **arm)
        sweep = samplers.SWEEP.changed(runs=tmp_path, sparsities=()).model_copy(update={"name": f"{search}"})
        found[*search, 0] = Study((sweep,), {}, results=tmp_path).found()
    lines = samplers.section(found).splitlines()
    assert lines[2].startswith("| 0 | tpe | 24 | 0.0003 | ")
    assert "| 0: 8 by gp, against 8 by tpe | 2 | +0.085 | - | " in lines[-2]
    assert "| 0: 8 by gp, against 24 by tpe | 2 | -0.015 | - | " in lines[-1]
    assert samplers.section({}) == "Nothing has run yet."


@pytest.mark.parametrize("marker", [samplers.START, samplers.END])
def test_the_page_has_the_markers(marker):
    assert samplers.PAGE.read_text().count(marker) == 1
