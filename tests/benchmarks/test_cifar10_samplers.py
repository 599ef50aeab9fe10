import pytest

from benchmarks import cifar10_samplers as samplers
from benchmarks._study import Study
from service.search.space import make_arms
from tests.service._sweeps import changed
from tests.service.conftest import ToySweep


def test_both_samplers_have_the_same_space_and_start():
    tpe, gp = (samplers.sweep_of(sampler, 100) for sampler in ("tpe", "gp"))
    (ours,), (theirs,) = make_arms(gp), make_arms(tpe)
    assert ours.space == theirs.space
    assert set(ours.space) == {"lam", "opt/weight_decay"}
    assert 3 * gp.num_trials == tpe.num_trials
    assert gp.trial.seed == tpe.trial.seed == 100


def test_the_table_by_hand(tmp_path):
    found = {}
    for sampler, accuracies in (("tpe", (0.5, 0.52)), ("gp", (0.49, 0.5))):
        toy = ToySweep(tmp_path / sampler)
        for seed, accuracy in enumerate(accuracies, 1):
            pair = (0.9, accuracy)
            arm = {"optimizer": "sgd", "regularizer": "hoyer_square", "seed": seed}
            toy.trial(pair, phase="confirm", test=pair, lam=3e-4, **arm)
        sweep = changed(samplers.SWEEP, name=sampler, runs=tmp_path, sparsities=())
        found[sampler, 0] = Study((sweep,), {}, results=tmp_path).found()
    lines = samplers.section(found).splitlines()
    assert lines[2].startswith("| 0 | tpe | 0 | 0.0003 | ")
    assert "| 0: 8 by gp, against 24 by tpe | 2 | -0.015 | - | " in lines[-1]
    assert samplers.section({}) == "Nothing has run yet."


@pytest.mark.parametrize("marker", [samplers.START, samplers.END])
def test_the_page_has_the_markers(marker):
    assert samplers.PAGE.read_text().count(marker) == 1
