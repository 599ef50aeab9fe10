import json
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import json_to_distribution

from service import Sweep
from tests.service._sweeps import TUNED, make
from trainables.config import TrialConfig


def test_identity_is_what_decides_the_trials():
    base = make().identity()
    for budget in ({"num_trials": 3}, {"runs": Path("elsewhere")}, {"num_seeds": 7}, {"max_concurrent": 1}):
        assert make(**budget).identity() == base
    changes = ({"max_epochs": 2}, {"opt": {"lr": 0.2}}, {"lam": 1e-4}, {"seed": 1}, {"ranges": {}})
    for what in (*changes, {"num_search_seeds": 2}, {"tuned": TUNED}, {"tuned": TUNED, "tuning": "paper"}):
        assert make(**what).identity() != base


def test_identity_is_json_and_names_each_range_in_optunas_form():
    identity = make().identity()
    rho = identity["search"]["ranges"]["opt/rho"]["optimizer"]["sam"]
    assert json_to_distribution(json.dumps(rho)) == Float(0.02, 0.5)
    assert json.loads(json.dumps(identity)) == identity


def test_the_name_is_the_datasets_unless_it_is_given():
    assert make().name == "digits"
    assert make(name="mine").name == "mine"


@pytest.mark.parametrize(
    ("field", "message"),
    [({"lam": 1e-3, "regularizer": "wcr"}, "trial: lam must be left out"), ({"read_test": True}, "trial: read_test")],
)
def test_what_the_search_decides_is_refused_in_the_template(field, message):
    sweep = make()
    trial = TrialConfig.model_validate({**dict(sweep.trial), **field})
    with pytest.raises(ValueError, match=message):
        Sweep(trial=trial, search=sweep.search)
