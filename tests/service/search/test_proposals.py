import hashlib
import math
import random
from collections import Counter

import optuna
import pytest
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from optuna.samplers import GPSampler, TPESampler
from optuna.trial import TrialState

from service.search import proposals, samplers
from service.search.proposals import Search, num_pending
from service.search.queue import Next, Proposal
from service.search.samplers import from_unit
from service.search.space import Arm, make_arms
from service.search.storage import open_storage
from tests.service._sweeps import make
from trainables.config import TrialConfig

SPACE = {
    "optimizer": Categorical(("sgd", "sam")),
    "regularizer": Categorical(("none", "wcr")),
    "lam": {"regularizer": {"wcr": Float(1e-6, 1e-3, log=True)}},
    "opt/rho": {"optimizer": {"sam": Float(0.05, 1.0, log=True), "s2sam": Float(0.1, 0.2)}},
}
INITIAL_POINTS = {"lam": {"regularizer": {"wcr": 1e-5}}, "opt/rho": {"optimizer": {"sam": 0.5}}}


def make_config(choices, params):
    opt = {"lr": 0.1} | ({"rho": params["opt/rho"]} if "opt/rho" in params else {})
    return TrialConfig(
        **choices,
        dataset="digits",
        architecture="small_resnet",
        max_epochs=1,
        batch_size=8,
        target_sparsity=0.9,
        opt=opt,
        lam=params.get("lam", 0.0),
    )


def score(config):
    """Best at lam 1e-4 and rho 0.2, so that a search has something to find."""
    distance = abs(math.log10(config.lam or 1.0) + 4) + abs(math.log10(config.opt.get("rho", 1.0) / 0.2))
    return 1 / (1 + distance)


class Run:
    """A sweep without training: values as the records would give them."""

    def __init__(self, storage, num_trials=5, **more):
        self.values = more.pop("values", {})
        self.search = Search(
            "toy",
            make_arms(make(ranges=SPACE, initial_points=INITIAL_POINTS, **more.pop("choices", {}))),
            storage=storage,
            num_trials=num_trials,
            seed=3,
            make_config=make_config,
            value_of=self.values.get,
            **more,
        )

    def finish(self, parallel=1, shuffle=None, most=10**6):
        """Up to `parallel` trials at once, ended in any order; returns the proposals in the order of their numbers."""
        proposals, running = [], []
        while True:
            proposal = self.search.next() if len(running) < parallel and len(proposals) < most else Next.WAIT
            if isinstance(proposal, Proposal):
                proposals.append(proposal)
                running.append(proposal)
                continue
            if not running:
                break
            ended = running.pop(shuffle.randrange(len(running)) if shuffle else 0)
            self.values[ended.config.key] = score(ended.config)
        return sorted(proposals, key=lambda p: p.number)


def test_a_proposal_is_added_to_the_study_whole(tmp_path, monkeypatch):
    """A process that is killed before its study has the whole proposal makes the same proposal again."""
    whole = {p.number: p.config.key for p in Run(optuna.storages.InMemoryStorage(), 10).finish()}
    killed = Run(open_storage(tmp_path / "study.log"), 10)
    killed.finish(most=20)
    size = (tmp_path / "study.log").stat().st_size
    killed.search.next()
    text = (tmp_path / "study.log").read_bytes()
    assert text[size:].count(b"\n") <= 2  # one operation for the proposal, at most one for an earlier result
    (tmp_path / "study.log").write_bytes(text[:size])
    rest = Run(open_storage(tmp_path / "study.log"), 10, values=killed.values).finish()
    assert {p.number: p.config.key for p in rest} == dict(list(whole.items())[20:])


@pytest.mark.parametrize(
    ("u", "dist", "expected"),
    [
        (0.0, Float(1e-6, 1e-2, log=True), 1e-6),
        (0.5, Float(1e-6, 1e-2, log=True), 1e-4),
        (0.25, Float(0.0, 8.0), 2.0),
        (0.5, Int(1, 5), 3),
        (0.99, Categorical(("a", "b")), "b"),
    ],
)
def test_unit_interval_maps_onto_a_range(u, dist, expected):
    assert from_unit(u, dist) == (expected if isinstance(expected, str) else pytest.approx(expected))


def test_every_arm_gets_the_same_number_and_the_initial_points_come_first():
    proposals = Run(optuna.storages.InMemoryStorage(), num_trials=4).finish()
    counts = {name: sum(p.arm == name for p in proposals) for name in ("sgd + none", "sgd + wcr", "sam + wcr")}
    assert counts == {"sgd + none": 1, "sgd + wcr": 4, "sam + wcr": 4}  # nothing to search: one trial says it all
    first = next(p.config for p in proposals if p.arm == "sam + wcr")
    assert (first.lam, first.opt["rho"]) == (1e-5, 0.5)
    assert len({p.config.key for p in proposals}) == 13


def test_proposals_lie_in_their_ranges_and_search_finds_the_optimum():
    proposals = Run(optuna.storages.InMemoryStorage(), num_trials=40).finish()
    lams = [p.config.lam for p in proposals if p.arm == "sgd + wcr"]
    assert all(1e-6 <= lam <= 1e-3 for lam in lams)
    late = [abs(math.log10(lam) + 4) for lam in lams[-10:]]
    assert sorted(late)[5] < 0.5  # half of the last ten within half a decade of the best; 3 decades are open


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_the_same_trials_whatever_ends_first(parallel):
    reference = [p.config.key for p in Run(optuna.storages.InMemoryStorage(), 13).finish()]
    other = Run(optuna.storages.InMemoryStorage(), 13).finish(parallel, random.Random(parallel))
    assert [p.config.key for p in other] == reference


@pytest.mark.parametrize(
    ("num_parallel", "num_arms", "expected"), [(1, 1, 1), (1, 4, 1), (2, 1, 3), (8, 1, 12), (9, 3, 4)]
)
def test_as_many_trials_of_an_arm_as_fall_to_it_and_half_as_many_again(num_parallel, num_arms, expected):
    assert num_pending(num_parallel, num_arms) == expected
    assert num_parallel == 1 or num_pending(num_parallel, num_arms) > num_parallel / num_arms  # one is always at hand


def test_more_workers_than_arms_make_the_same_trials_in_any_order():
    runs = [Run(optuna.storages.InMemoryStorage(), 13, num_parallel=9) for _ in range(2)]
    keys = [[p.config.key for p in run.finish(9, random.Random(i))] for i, run in enumerate(runs)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 40  # 1 + 3 x 13


def test_others_go_on_beside_a_slow_trial_as_far_as_num_pending_allows():
    """One arm on two workers: while one trial runs, the other worker runs two more, as three pending trials allow."""
    run = Run(
        optuna.storages.InMemoryStorage(), 40, num_parallel=2, choices={"optimizer": ["sam"], "regularizer": ["wcr"]}
    )
    for _ in range(8):  # past the points that need no results
        proposal = run.search.next()
        run.values[proposal.config.key] = score(proposal.config)
    slow = run.search.next()
    for _ in range(2):
        quick = run.search.next()
        run.values[quick.config.key] = score(quick.config)
    assert run.search.next() is Next.WAIT
    run.values[slow.config.key] = score(slow.config)
    assert run.search.next().number == 11


SAMPLERS = {
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=0),
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=0, multivariate=True),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposal_sees_the_results_that_num_pending_allows_and_no_others(sampler):
    """By hand: Optuna's sampler, with the same seed, on a study that has these trials alone."""
    choices = {"optimizer": ["sam"], "regularizer": ["wcr"]}
    run = Run(optuna.storages.InMemoryStorage(), 12, num_parallel=2, choices=choices, sampler=sampler)
    proposals = run.finish(2, random.Random(0))
    study = optuna.create_study(direction="maximize")
    space = run.search.arms[0].space
    for p in proposals[:10]:  # trial 10 starts when trials 8 and 9 may still run
        params = {"lam": p.config.lam, "opt/rho": p.config.opt["rho"]}
        result = {"value": score(p.config)} if p.number < 8 else {"state": TrialState.RUNNING}
        if sampler == "gp" or p.number < 8:  # TPE would not see running trials either
            study.add_trial(optuna.create_trial(params=params, distributions=space, **result))
    study.sampler = SAMPLERS[sampler](int.from_bytes(hashlib.sha256(b"3/sam + wcr/10").digest()[:4]))
    assert study.ask(space).params == {"lam": proposals[10].config.lam, "opt/rho": proposals[10].config.opt["rho"]}


def test_a_gaussian_process_keeps_away_from_what_failed():
    """Large lam diverges; the accuracy rises up to there. A process that ignored failures would return again."""

    def values_of(config):
        return (math.nan if config.lam > 3e-5 else math.log10(config.lam), 0.0)

    configs, values = play(values_of, num_trials=16, sampler="gp")
    late = [math.isnan(value) for value, _ in values[6:]]
    assert sum(late) <= 4
    best = max(config.lam for config, (value, _) in zip(configs, values, strict=True) if math.isfinite(value))
    assert best > 1.5e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_sampler_proposes_twice_is_replaced_by_a_halton_point(tmp_path, monkeypatch, sampler):
    """The objective rises up to the end of the range, which a sampler proposes again and again."""
    monkeypatch.setattr(proposals, "sample", lambda *args, **kwargs: {"lam": 1e-3})
    choices = {"optimizer": ["sgd"], "regularizer": ["wcr"]}
    run = Run(optuna.storages.InMemoryStorage(), 10, choices=choices, sampler=sampler)
    lams = [p.config.lam for p in run.finish()]
    halton = [
        proposals.halton_point(run.search.arms[0].space, n, seed=run.search._seed_of("sgd + wcr"))["lam"]
        for n in range(10)
    ]
    assert lams == [1e-5, *halton[1:4], 1e-3, *halton[5:]]
    killed = Run(open_storage(tmp_path / "study.log"), 10, choices=choices, sampler=sampler)
    before = [p.config.lam for p in killed.finish(most=7)]
    resumed = Run(open_storage(tmp_path / "study.log"), 10, choices=choices, sampler=sampler, values=killed.values)
    assert before + [p.config.lam for p in resumed.finish()] == lams


def test_the_best_value_at_the_end_of_a_range_takes_no_trials_from_the_search():
    search = {"num_trials": 10, "choices": {"optimizer": ["sgd"], "regularizer": ["wcr"]}, "sampler": "gp"}
    run = Run(optuna.storages.InMemoryStorage(), **search)
    lams = []
    while isinstance(proposal := run.search.next(), Proposal):
        lams.append(proposal.config.lam)
        run.values[proposal.key] = math.log10(proposal.config.lam)
    assert 1e-3 in lams
    assert len(set(lams)) == 10


def test_equal_configurations_do_not_run_beside_each_other():
    arm = Arm({"optimizer": "sam", "regularizer": "none"}, {"opt/rho": Int(1, 2)}, {})
    storage, values = optuna.storages.InMemoryStorage(), {}
    more = {"storage": storage, "num_trials": 6, "seed": 3, "make_config": make_config, "value_of": values.get}
    search = Search("toy", [arm], num_parallel=6, **more)
    launched = []
    while isinstance(proposal := search.next(), Proposal):
        launched.append(proposal)
    assert sorted(p.config.opt["rho"] for p in launched) == [1, 2]
    values |= {p.key: 0.5 for p in launched}
    assert search.ended()


def test_tpe_proposes_once_a_gaussian_process_would_be_slow(monkeypatch):
    monkeypatch.setattr(proposals, "MOST_FOR_GP", 6)
    made = []
    for name in ("ArmGP", "ArmTPE"):
        kind = getattr(samplers, name)
        monkeypatch.setattr(samplers, name, lambda *a, kind=kind, **k: made.append(kind.__name__) or kind(*a, **k))
    play(lambda config: (score(config), 0.0), num_trials=9, sampler="gp")
    assert made == ["ArmGP"] * 3 + ["ArmTPE"] * 2  # after four points that need no result


def test_a_killed_search_goes_on_with_the_same_trials(tmp_path):
    reference = [p.config.key for p in Run(optuna.storages.InMemoryStorage(), 10).finish()]
    values, proposals = {}, {}
    for attempt in range(12):  # each process launches three, two of which end before it is killed
        run = Run(open_storage(tmp_path / "study.log"), 10, values=values)
        launched = [p for p in (run.search.next() for _ in range(3)) if isinstance(p, Proposal)]
        for proposal in launched:
            proposals[proposal.number] = proposal.config.key
        for proposal in random.Random(attempt).sample(launched, min(2, len(launched))):
            values[proposal.config.key] = score(proposal.config)
    for proposal in Run(open_storage(tmp_path / "study.log"), 10, values=values).finish():
        proposals[proposal.number] = proposal.config.key
    assert [proposals[number] for number in range(31)] == reference


def test_studies_say_what_the_records_say_and_none_is_left_running(tmp_path):
    run = Run(open_storage(tmp_path / "study.log"), 4)
    lost = []
    while (proposal := run.search.next()) is not Next.FINISHED:
        failed = proposal.number % 5 == 1
        lost += [proposal.config.key] * failed
        run.values[proposal.config.key] = math.nan if failed else score(proposal.config)
    states = [t.state for study in run.search.studies for t in study.get_trials()]
    assert states.count(TrialState.FAIL) == len(lost) == 3
    assert states.count(TrialState.COMPLETE) == 10
    assert run.search.ended()


def test_a_larger_budget_keeps_the_trials_there_are(tmp_path):
    first = Run(open_storage(tmp_path / "study.log"), 3)
    before = [p.config.key for p in first.finish()]
    second = Run(open_storage(tmp_path / "study.log"), 5, values=first.values)
    after = [p.config.key for p in second.finish()]
    assert not set(before) & set(after)
    assert before + after == [p.config.key for p in Run(optuna.storages.InMemoryStorage(), 5).finish()]


def test_values_from_elsewhere_come_first_moved_into_the_range():
    first = {"sam + wcr": [{"lam": 5e-2, "opt/rho": 0.3}, {"lam": 1e-5, "opt/rho": 0.5}]}
    proposals = Run(optuna.storages.InMemoryStorage(), 4, first=first).finish()
    tried = [(p.config.lam, p.config.opt["rho"]) for p in proposals if p.arm == "sam + wcr"]
    assert tried[:2] == [(1e-3, 0.3), (1e-5, 0.5)]  # the second equals the initial point: tried once
    assert len(set(tried)) == len(tried)


def test_a_search_waits_for_the_results_it_depends_on():
    run = Run(optuna.storages.InMemoryStorage(), 5)
    launched = [run.search.next() for _ in range(14)]
    assert [p.arm for p in launched[:4]] == ["sgd + none", "sgd + wcr", "sam + none", "sam + wcr"]
    assert all(isinstance(p, Proposal) for p in launched[:13])
    assert launched[13] is Next.WAIT  # the sampler begins, one trial at a time, with every arm's fifth
    *others, last = (p for p in launched[:13] if p.arm == "sgd + wcr")
    run.values |= {p.config.key: score(p.config) for p in others}
    assert run.search.next() is Next.WAIT
    run.values[last.config.key] = score(last.config)
    assert run.search.next().arm == "sgd + wcr"


def test_a_larger_budget_on_several_workers_makes_the_trials_of_one_that_was_so_large_at_once(tmp_path):
    first = Run(open_storage(tmp_path / "study.log"), 7, num_parallel=6)
    before = [p.config.key for p in first.finish(6, random.Random(1))]
    second = Run(open_storage(tmp_path / "study.log"), 13, num_parallel=6, values=first.values)
    after = [p.config.key for p in second.finish(6, random.Random(2))]
    at_once = Run(optuna.storages.InMemoryStorage(), 13, num_parallel=6).finish(6, random.Random(3))
    assert before + after == [p.config.key for p in at_once]


def test_every_configuration_is_repeated_with_the_same_seeds_and_told_as_their_mean():
    run = Run(optuna.storages.InMemoryStorage(), 3, num_seeds=3, choices={"regularizer": ["wcr"]})
    values = iter(range(100))
    keys = {}
    while (proposal := run.search.next()) is not Next.FINISHED:
        config = proposal.config
        run.values[config.key] = float(next(values))
        keys.setdefault((proposal.arm, config.lam, config.opt.get("rho")), []).append(config)
    assert len(keys) == 2 * 3
    assert all([config.seed for config in configs] == [0, 1, 2] for configs in keys.values())
    for study in run.search.studies:
        for trial in study.get_trials():
            name = study.study_name.removeprefix("toy: ")
            configs = keys[name, trial.params["lam"], trial.params.get("opt/rho")]
            assert trial.value == sum(run.values[config.key] for config in configs) / 3


def test_a_configuration_that_fails_on_one_seed_has_failed():
    run = Run(optuna.storages.InMemoryStorage(), 1, num_seeds=2, choices={"optimizer": ["sgd"], "regularizer": ["wcr"]})
    for value in (0.9, math.nan):
        run.values[run.search.next().config.key] = value
    assert run.search.next() is Next.FINISHED
    assert [t.state for t in run.search.studies[0].get_trials()] == [TrialState.FAIL]


@pytest.mark.parametrize("parallel", [2, 5])
def test_repeated_configurations_are_the_same_whatever_ends_first(parallel):
    def keys(parallel, shuffle=None):
        run = Run(optuna.storages.InMemoryStorage(), 8, num_seeds=2, num_parallel=5)
        return sorted(p.config.key for p in run.finish(parallel, shuffle))

    assert keys(parallel, random.Random(parallel)) == keys(1)


# ---- constraints, and what was adopted ---------------------------------------------------------------------------


def play(values_of, *, num_trials, seed=3, violations_of=None, **more):
    """A search of one arm whose trials end at once; (pruned, other) by configuration, in the order of proposals."""
    found: dict[str, tuple[float, float]] = {}
    search = Search(
        "toy",
        make_arms(make(ranges=SPACE, initial_points=INITIAL_POINTS, optimizer=("sam",), regularizer=("wcr",))),
        storage=optuna.storages.InMemoryStorage(),
        num_trials=num_trials,
        seed=seed,
        make_config=make_config,
        value_of=lambda key: found[key][0] if key in found else None,
        violations_of=violations_of and (lambda configs: violations_of([found[key][1] for (key,) in configs])),
        **more,
    )
    configs = []
    while isinstance(proposal := search.next(), Proposal):
        found[proposal.key] = values_of(proposal.config)
        configs.append(proposal.config)
    return configs, [found[config.key] for config in configs]


def dense_falls_with_lam(config):
    """Accuracy after pruning grows with lam; dense accuracy falls from 0.9 at lam 1e-5 by 0.1 a decade.

    With a drop of at most 0.05 the best lam is 10^-4.5.
    """
    decades = math.log10(config.lam) + 5
    return 0.5 + 0.1 * decades, 0.9 - 0.1 * max(0.0, decades)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_constraint_on_dense_accuracy_finds_the_known_optimum(seed):
    def violations_of(dense):
        return [{"dense": max(dense) - value - 0.05} for value in dense]

    configs, values = play(dense_falls_with_lam, num_trials=40, seed=seed, violations_of=violations_of)
    best_dense = max(dense for _, dense in values)
    feasible = [
        (pruned, config.lam)
        for config, (pruned, dense) in zip(configs, values, strict=True)
        if dense >= best_dense - 0.05
    ]
    _, lam = max(feasible)
    assert math.log10(lam) == pytest.approx(-4.5, abs=0.15)
    free, _ = play(dense_falls_with_lam, num_trials=40, seed=seed)

    def num_feasible(configs):
        return sum(math.log10(config.lam) <= -4.5 for config in configs[20:])

    assert num_feasible(configs) > num_feasible(free)  # without it, the search goes where the network has lost much


def small_at_large_lam(config):
    """Accuracy after pruning falls by 0.1 for each decade of lam from 0.9 at 1e-6; MACs left fall from 1 by a quarter.

    With at most 0.6 of the MACs the best lam is 10^-4.4, which is not the best one without the limit.
    """
    decades = math.log10(config.lam) + 6
    return 0.9 - 0.1 * decades, 1 - 0.25 * decades


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_constraint_on_operations_finds_the_known_optimum(seed):
    def violations_of(left):
        return [{"size": value - 0.6} for value in left]

    configs, values = play(small_at_large_lam, num_trials=40, seed=seed, violations_of=violations_of)
    _, lam = max((pruned, config.lam) for config, (pruned, left) in zip(configs, values, strict=True) if left <= 0.6)
    assert math.log10(lam) == pytest.approx(-4.4, abs=0.1)
    free, _ = play(small_at_large_lam, num_trials=40, seed=seed)

    def num_feasible(configs):
        return sum(math.log10(config.lam) >= -4.4 for config in configs[20:])

    assert num_feasible(configs) > num_feasible(free)  # without it, the search goes where the network stays large


def test_what_was_adopted_comes_first_and_counts():
    adopted = {"sam + wcr": [{"lam": 2e-5, "opt/rho": 0.3}, {"lam": 1e-5, "opt/rho": 0.5}]}  # the 2nd: initial point
    configs, _ = play(lambda config: (score(config), 0.9), num_trials=5, adopted=adopted)
    points = [(config.lam, config.opt["rho"]) for config in configs]
    assert points[:2] == [(2e-5, 0.3), (1e-5, 0.5)]
    assert len(points) == len(set(points)) == 5


def test_each_generation_has_studies_of_its_own(tmp_path):
    first = Run(open_storage(tmp_path / "study.log"), 3)
    first.finish()
    second = Run(open_storage(tmp_path / "study.log"), 3, adopted={"sgd + wcr": [{"lam": 7e-5}]}, generation=1)
    lams = [p.config.lam for p in second.finish() if p.arm == "sgd + wcr"]
    assert (lams[0], len(lams)) == (7e-5, 3)
    names = {study.study_name for study in open_storage(tmp_path / "study.log").get_all_studies()}
    assert {"toy: sgd + wcr", "toy: sgd + wcr (2)"} < names


def num_looks(num_trials, num_workers):
    """How often a search of one arm, with `ended`, asks for the value of a trial."""
    values, ended, looks = {}, [], Counter()

    def value_of(key):
        looks[key] += 1
        return values.get(key)

    search = Search(
        "toy",
        make_arms(make(ranges=SPACE, initial_points=INITIAL_POINTS, optimizer=["sam"], regularizer=["wcr"])),
        storage=optuna.storages.InMemoryStorage(),
        num_trials=num_trials,
        seed=3,
        make_config=make_config,
        value_of=value_of,
        ended=lambda: ended,
        num_parallel=num_workers,
    )
    running = []
    while True:
        while len(running) < num_workers and isinstance(proposal := search.next(), Proposal):
            running.append(proposal)
        if not running:
            assert proposal is Next.FINISHED
            assert search.ended()
            assert all(trial.state.is_finished() for trial in search.studies[0].trials)
            return looks.total()
        done = running.pop(len(running) // 2)
        values[done.key] = score(done.config)
        ended.append(done.key)


def test_the_number_of_looks_at_values_grows_with_the_number_of_trials_and_not_faster():
    assert num_looks(160, 32) < 1.5 * 4 * num_looks(40, 8)


def test_a_long_search_learns_from_a_bounded_number_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "MOST_RESULTS", 8)
    monkeypatch.setattr(proposals, "NUM_BEST", 2)
    choices, sizes = {"optimizer": ["sam"], "regularizer": ["wcr"]}, {"num_trials": 30}
    learned, real = [], TPESampler.sample_relative

    def sample_relative(self, study, trial, search_space):
        learned.append([each.value for each in study.get_trials(states=[TrialState.COMPLETE])])
        return real(self, study, trial, search_space)

    monkeypatch.setattr(TPESampler, "sample_relative", sample_relative)
    whole = Run(optuna.storages.InMemoryStorage(), choices=choices, **sizes)
    made = [p.config.key for p in whole.finish()]
    assert max(map(len, learned)) == 2 + 7
    values = [whole.values[key] for key in made]
    best = sorted(sorted(range(24), key=lambda number: -values[number])[:2])
    assert learned[-1] == [values[number] for number in (*best, *range(24, 29))]
    storage, ended = open_storage(tmp_path / "study.log"), {}
    for most in (7, 10, 30):  # killed twice
        Run(storage, choices=choices, values=ended, **sizes).finish(most=most)
    assert list(ended) == made
