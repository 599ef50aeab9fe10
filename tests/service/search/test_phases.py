"""Which trials a sweep makes, with results made by hand instead of by training."""

import contextlib
import math
import statistics

import optuna
import pytest
from optuna.distributions import FloatDistribution as Float

from search_spaces import by_regularizer, small_cnn
from service.records.best import best
from service.records.recorder import Recorder
from service.search import carrying
from service.search.phases import Phases, points_from_other_sweeps
from service.search.queue import Next
from service.search.space import make_arms
from service.search.storage import open_storage
from tests.service._sweeps import make as make_sweep


def make(tmp_path, **fields):
    given = {
        "ranges": {"lam": by_regularizer(wcr=Float(1e-6, 1e-4, log=True)), **choices(("sgd",), ("none", "wcr"))},
        "tuned": {"opt/lr": Float(0.01, 1.0, log=True)},
        "runs": tmp_path,
        "num_trials": 2,
        "num_search_seeds": 2,
        "num_seeds": 3,
    }
    return make_sweep(**{**given, **fields})


def choices(optimizers, regularizers):
    categorical = optuna.distributions.CategoricalDistribution
    return {"optimizer": categorical(optimizers), "regularizer": categorical(regularizers)}


@pytest.fixture
def play(tmp_path, monkeypatch):
    """A function: a sweep and (config -> objective) -> every proposal, in order, each ended as soon as it is made."""
    stack = contextlib.ExitStack()

    def run(sweep, objective, most=10**6):
        records = stack.enter_context(contextlib.closing(Recorder(sweep.folder)))
        if not records.state.header:
            records.sweep_begun(sweep.identity(), data="none")
        if not records.state.search_state:
            records.search_started(initial_points={}, num_parallel=1)
        values = {}
        monkeypatch.setattr(Phases, "value_of", lambda self, key: values.get(key))
        phases = Phases(sweep, make_arms(sweep), records)
        proposals = []
        while len(proposals) < most and (proposal := phases.next()) is not Next.FINISHED:
            assert proposal is not Next.WAIT, "waits for a result that is there"
            values[proposal.config.key] = objective(proposal.config)
            records.state.ended.append(proposal.config.key)
            proposals.append(proposal)
        assert phases.num_left == 0
        return phases, proposals

    with stack:
        yield run


def test_every_arm_is_confirmed_on_the_same_unseen_seeds_with_the_test_split(tmp_path, play):
    phases, proposals = play(make(tmp_path), lambda config: 0.9)
    assert phases.complete()
    search = [p.config for p in proposals if p.phase == "search"]
    confirm = [p.config for p in proposals if p.phase == "confirm"]
    assert {c.seed for c in search} == {0, 1}
    assert not any(c.read_test for c in search)
    assert all(c.read_test for c in confirm)
    seeds = {name: {c.seed for c in confirm if c.regularizer == name} for name in ("none", "wcr")}
    assert seeds == {"none": {2, 3, 4}, "wcr": {2, 3, 4}}


def test_a_new_sweep_of_the_same_name_has_studies_of_its_own_in_a_shared_database(tmp_path, play):
    uri = f"sqlite:///{tmp_path / 'studies.db'}"
    fields = {"study_uri": uri, "regularizer": ("wcr",)}
    play(make(tmp_path / "first", **fields), lambda config: 0.9)
    other = {"lam": by_regularizer(wcr=Float(1e-2, 1e-1, log=True)), **choices(("sgd",), ("wcr",))}
    phases, proposals = play(make(tmp_path / "second", ranges=other, **fields), lambda config: 0.9)
    assert all(1e-2 <= p.config.lam <= 1e-1 for p in proposals)
    phases.records.close()
    _, again = play(make(tmp_path / "second", ranges=other, **fields), lambda config: 0.9)
    assert [p.key for p in again] == [p.key for p in proposals]
    storage = open_storage(uri)
    assert sorted(len(storage.get_all_trials(study._study_id)) for study in storage.get_all_studies()) == [2, 2]


def test_a_sweep_that_began_before_studies_had_its_id_continues_them(tmp_path):
    sweep = make(tmp_path, study_uri="sqlite://", regularizer=("wcr",))
    with contextlib.closing(Recorder(sweep.folder)) as records:
        records.sweep_begun(sweep.identity(), data="none")
        begun = {"initial_points": {}, "num_parallel": 1, "adopted": {}, "adopted_from": []}
        records.state.apply(records.log.append("search_state", **begun))
        phases = Phases(sweep, make_arms(sweep), records)
    assert [study.study_name for study in phases.search.studies] == ["digits: sgd + wcr"]


def test_the_best_configuration_is_that_of_the_highest_mean_over_seeds(tmp_path, play):
    def objective(config):  # on seed 0 alone, the second configuration would win
        first = config.opt["lr"] == 0.1
        return {0: 0.5, 1: 0.9}.get(config.seed, 0.5) if first else {0: 0.6, 1: 0.1}.get(config.seed, 0.5)

    _, proposals = play(make(tmp_path, regularizer=("none",), opt={"lr": 0.1}), objective)
    assert {p.config.opt["lr"] for p in proposals if p.phase == "confirm"} == {0.1}
    assert len({p.config.opt["lr"] for p in proposals if p.phase == "search"}) == 2


@pytest.mark.parametrize("num_search_seeds", [1, 2])
def test_the_finalists_get_further_seeds_and_the_best_of_all_their_seeds_is_confirmed(tmp_path, play, num_search_seeds):
    """By the search's seeds, configuration 1 is the best, 3 the second, and 2 the last; 3 is the best of all seeds."""
    first = {0: 0.5, 1: 0.9, 2: 0.1, 3: 0.8}
    seen = {}

    def objective(config):
        number = seen.setdefault(
            (config.regularizer, config.opt["lr"]), len([k for k in seen if k[0] == config.regularizer])
        )
        return first[number] if config.seed < num_search_seeds else {1: 0.6, 3: 0.85}.get(number, 1.0)

    sweep = make(tmp_path, num_trials=4, num_search_seeds=num_search_seeds, num_finalists=2, race=False)
    phases, proposals = play(sweep, objective)
    assert phases.complete()
    further = [p for p in proposals if p.phase == "search" and p.config.seed >= num_search_seeds]
    numbers = [seen[p.config.regularizer, p.config.opt["lr"]] for p in further]
    assert numbers == [1, 1, 3, 3] * 2
    assert {p.config.seed for p in further} == {num_search_seeds, num_search_seeds + 1}
    assert not any(p.config.read_test for p in further)
    confirmed = [p.config for p in proposals if p.phase == "confirm"]
    assert {seen[c.regularizer, c.opt["lr"]] for c in confirmed} == {3}
    assert {c.seed for c in confirmed} == set(range(num_search_seeds + 2, num_search_seeds + 5))
    assert phases.num_search == 2 * (4 * num_search_seeds + 2 * 2)


def test_a_finalist_that_diverges_once_is_not_selected(tmp_path, play):
    sweep = make(tmp_path, num_trials=3, num_search_seeds=1, num_finalists=3, num_finalist_seeds=1)
    _, proposals = play(sweep, lambda config: math.nan if config.seed == 1 and config.opt["lr"] == 0.1 else 0.5)
    assert any(p.config.opt["lr"] == 0.1 for p in proposals if p.phase == "search")
    confirmed = {p.config.opt["lr"] for p in proposals if p.phase == "confirm"}
    assert confirmed
    assert 0.1 not in confirmed


def test_an_arm_with_a_single_configuration_has_no_finalists(tmp_path, play):
    phases, proposals = play(make(tmp_path, num_trials=1, num_finalists=4), lambda config: 0.5)
    assert phases.num_search == len([p for p in proposals if p.phase == "search"]) == 2 * 2
    assert {p.config.seed for p in proposals if p.phase == "confirm"} >= {4, 5}  # after those of finalists elsewhere


def test_a_clearly_beaten_arm_gives_its_seeds_to_the_others(tmp_path, play):
    noise = {seed: 0.01 * (-1) ** seed for seed in range(20)}
    sweep = make(tmp_path, ranges=choices(("sgd", "sam", "s2sam"), ("none",)))
    means = {"sgd": 0.9, "sam": 0.89, "s2sam": 0.2}
    _, proposals = play(sweep, lambda config: means[config.optimizer] + noise[config.seed])
    seeds = [[p.config.seed for p in proposals if p.phase == "confirm" and p.config.optimizer == o] for o in means]
    assert seeds == [
        [2, 3, 4],
        [2, 3, 4],
        [2, 3],
    ]  # the one left of 9 is not enough for two
    assert statistics.fmean(noise[seed] for seed in (2, 3)) == 0


def test_the_best_arms_and_every_baseline_are_confirmed_where_that_is_asked(tmp_path, play):
    sweep = make(
        tmp_path, ranges={**make(tmp_path).search.ranges, **choices(("sgd", "adamw"), ("none", "wcr"))}, num_confirm=1
    )
    _, proposals = play(sweep, lambda config: 0.5 + 0.1 * (config.regularizer == "wcr") + 0.1 * (config.lam == 1e-5))
    arms = {p.arm for p in proposals if p.phase == "confirm"}
    assert len(arms) == 3
    assert {"sgd + none", "adamw + none"} < arms
    _, proposals = play(make(tmp_path, name="none", num_confirm=0), lambda config: 0.5)
    assert {p.phase for p in proposals} == {"search"}


def test_a_arm_without_a_finished_configuration_is_not_confirmed(tmp_path, play):
    phases, proposals = play(make(tmp_path), lambda config: float("nan") if config.regularizer == "wcr" else 0.9)
    assert {p.arm for p in proposals if p.phase == "confirm"} == {"sgd + none"}
    assert phases.complete()


def test_values_of_the_nearest_setting_come_first(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("service.search.known.published", list)
    toy.trial((0.9, 0.8), lam=1e-6, max_epochs=9)
    toy.trial((0.9, 0.7), lam=1e-5, rho=0.2, max_epochs=1)
    sweep = make(tmp_path / "runs", ranges=small_cnn.SEARCH_SPACE.ranges, target_sparsity=0.9, batch_size=8, name="new")
    expected = [
        {"lam": 1e-5, "opt/rho": 0.2, "opt/lr": 0.1},  # of one epoch, as this sweep's
        {"lam": 1e-6, "opt/rho": 0.1, "opt/lr": 0.1},
    ]
    points = points_from_other_sweeps(sweep, make_arms(sweep))
    assert points["sam + wcr"] == expected
    assert "sam + hoyer_square" not in points
    other = make(tmp_path / "runs", ranges=small_cnn.SEARCH_SPACE.ranges, target_sparsity=0.5, name="new")
    assert points_from_other_sweeps(other, make_arms(other))["sam + wcr"] == expected  # the sparsity need not be equal
    assert best(tmp_path / "runs", skip_sweep="toy") == []


def test_published_values_follow_those_of_sweeps_and_lam_is_carried_over_by_its_rule(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(carrying.RULES, "wcr", "lam / lr")
    toy.trial((0.9, 0.8), lam=1e-5, rho=0.2)
    fields = {"ranges": small_cnn.SEARCH_SPACE.ranges, "target_sparsity": 0.9, "name": "new"}
    sweep = make(tmp_path / "runs", **fields, opt={"lr": 0.4}, tuning="paper")
    point, *published = points_from_other_sweeps(sweep, make_arms(sweep))["sam + wcr"]
    assert point["lam"] == pytest.approx(4e-5)
    assert len(published) == 2
    searched = make(tmp_path / "runs", **fields, opt={"lr": 0.4})  # the learning rate comes along
    point, *_ = points_from_other_sweeps(searched, make_arms(searched))["sam + wcr"]
    assert (point["lam"], point["opt/lr"]) == (pytest.approx(1e-5), 0.1)


# ---- results that lack something ---------------------------------------------------------------------------------


@pytest.fixture
def phases_of(toy, tmp_path):
    """A function: the phases of a sweep that has `toy`'s records."""

    def build(**fields):
        sweep = make_sweep(
            **{"runs": toy.folder.parent, "name": "toy", "tuning": "paper", "num_trials": 1, "batch_size": 8}
            | {"optimizer": ("sam",), "regularizer": ("wcr",), "max_epochs": 3, "target_sparsity": 0.9}
            | {"opt": {"lr": 0.1, "rho": 0.1}, "rho": 0.1, "lam": 1e-5, "num_seeds": 1}
            | fields
        )
        toy.recorder.sweep_changed(sweep.identity(), left_out=[])
        toy.recorder.search_started(initial_points={}, num_parallel=1)
        return Phases(sweep, make_arms(sweep), toy.recorder)

    return build


def test_a_finished_trial_that_lacks_a_method_is_handed_out_again(toy, phases_of):
    key = toy.trial((0.9, 0.7))
    (toy.state.trial_folder(key) / "trained").mkdir()
    (toy.state.trial_folder(key) / "trained" / "config.json").write_text("{}")
    phases = phases_of(criterion=("magnitude", "snip"))
    assert (phases.num_trained, phases.value_of(key)) == (1, None)
    proposal = phases.next()
    assert proposal.key == key
    assert [method.label for method in proposal.config.pruning] == ["magnitude global", "snip global"]
    assert phases.next() is Next.WAIT
    toy.recorder.trial_ended(key, failure=("error", "snip fails"), is_complete=lambda result: False)
    assert math.isnan(phases.value_of(key))  # it counts as failed, and the sweep goes on


def test_a_trial_that_has_everything_is_not_handed_out_again(toy, phases_of):
    key = toy.trial((0.9, 0.7), others={"snip global": (0.8, None)})
    assert phases_of(criterion=("magnitude", "snip")).value_of(key) == 0.7
    phases = phases_of(criterion=("snip", "magnitude"))  # the other one decides now
    assert (phases.value_of(key), phases.goal.method) == (0.8, "snip global")
    assert phases.next().phase == "confirm"


def test_what_confirmed_an_earlier_selection_does_not_count_as_done(toy, phases_of):
    toy.trial((0.9, 0.7))
    for lam in (1e-5, 2e-5):  # the second was selected before the sweep was changed
        toy.trial((0.9, 0.7), phase="confirm", test=(0.9, 0.7), lam=lam, seed=1)
    phases = phases_of()
    assert phases.next() is Next.FINISHED
    assert phases.num_done == 2


def test_the_checkpoint_of_another_method_is_replaced_where_the_weights_are_kept(toy, phases_of):
    key = toy.trial((0.9, 0.7), others={"snip global": (0.8, None)})
    (toy.state.trial_folder(key) / "trained").mkdir()
    (toy.state.trial_folder(key) / "trained" / "config.json").write_text("{}")
    phases = phases_of(criterion=("snip", "magnitude"))
    assert phases.next().key == key


def test_configurations_that_lose_too_much_before_pruning_are_not_confirmed(toy, phases_of):
    for lam, accs in ((1e-5, (0.95, 0.60)), (2e-5, (0.94, 0.70)), (3e-5, (0.80, 0.90))):
        toy.trial(accs, lam=lam)
    fields = {"lam": None, "num_trials": 3}
    for drop, lam in ((None, 3e-5), (0.02, 2e-5), (0.001, 1e-5)):
        phases = phases_of(**fields, max_dense_drop=drop)
        points = [{"lam": lam} for lam in (1e-5, 2e-5, 3e-5)]
        toy.recorder.search_started(initial_points={}, num_parallel=1, adopted={"sam + wcr": points})
        phases = Phases(phases.spec, phases.arms, toy.recorder)
        proposal = phases.next()
        assert (proposal.phase, proposal.config.lam) == ("confirm", lam)
        summary = toy.summary(complete=False)
        assert (summary["arms"][0]["lam"], summary["arms"][0]["feasible"]) == (lam, True)


def test_the_best_configuration_that_is_small_enough_is_confirmed(toy, phases_of):
    lams = (1e-5, 2e-5, 3e-5)
    for lam, pruned, left in zip(lams, (0.9, 0.8, 0.7), (0.7, 0.4, 0.2), strict=True):
        toy.trial((0.95, pruned), lam=lam, more={"macs_left": left})
    for limit, lam, feasible in ((None, 1e-5, True), (0.4, 2e-5, True), (0.3, 3e-5, True), (0.1, 3e-5, False)):
        phases = phases_of(lam=None, num_trials=3, max_macs_left=limit)
        adopted = {"sam + wcr": [{"lam": lam} for lam in lams]}
        toy.recorder.search_started(initial_points={}, num_parallel=1, adopted=adopted)
        phases = Phases(phases.spec, phases.arms, toy.recorder)
        assert phases.next().config.lam == lam
        (row,) = toy.summary(complete=False)["arms"]
        assert (row["lam"], row["feasible"]) == (lam, feasible)
        assert row["violated"] == ([] if feasible else ["max_macs_left"])


def test_what_failed_in_an_earlier_process_is_tried_again(toy, phases_of):
    key = toy.trial((0.9, 0.7))
    toy.recorder.trial_ended(key, failure=("error", "no memory then"), is_complete=lambda result: False)
    phases = phases_of(criterion=("magnitude", "snip"))
    assert phases.next().key == key
    assert phases.value_of(key) is None
    assert not phases.complete()
