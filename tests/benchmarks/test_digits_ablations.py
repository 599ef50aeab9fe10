import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import _ablation_jobs as trainings
from benchmarks import _ablation_tables as tables
from benchmarks import _logistic as logistic
from benchmarks import digits_ablations as ablations
from benchmarks import digits_methods
from benchmarks._jobs import append
from benchmarks._markdown import ALPHA, comparison_table
from service.records.events import EventLog
from trainables.config import TrialConfig
from trainables.loop import Training, load_task

SEEDS = range(ablations.FIRST_SEED, ablations.FIRST_SEED + ablations.NUM_SEEDS)


def make_config(optimizer, regularizer="wcr", lam=1e-5, **opt):
    return TrialConfig(
        dataset="digits",
        architecture="small_resnet",
        model={"width": 2, "depth": 1},
        optimizer=optimizer,
        opt={"lr": 0.05, "weight_decay": 1e-2, **opt},
        regularizer=regularizer,
        lam=lam,
        train_size=64,
        max_epochs=2,
        batch_size=16,
        target_sparsity=0.96,
    )


def lines(results, event="job"):
    return [entry for entry, _ in EventLog.read(results) if entry["event"] == event]


def test_jobs_have_names_of_their_own_and_unseen_seeds_that_all_share():
    arms = {arm: trainings.initial_config(*arm) for arm in trainings.ARMS}
    jobs = [*trainings.training_jobs(arms, SEEDS), *logistic.logistic_jobs(SEEDS)]
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 12 * 12 + 6 * 12 + 3 * 2 * 2 * 7 + 12 * 3 * 4
    for arm in trainings.ARMS:
        seeds = [
            job.config.seed
            for job in jobs
            if job.labels["ablation"] == "arm" and (job.config.optimizer, job.config.regularizer) == arm
        ]
        assert seeds == list(SEEDS)
    assert min(SEEDS) > 2 * digits_methods.SWEEP.num_seeds + digits_methods.SWEEP.num_search_seeds


def test_the_selected_configuration_is_that_of_the_study(toy, tmp_path, monkeypatch, capsys):
    study = digits_methods.SWEEP.model_copy(update={"name": "toy"})  # nothing is committed
    monkeypatch.setattr(digits_methods, "SWEEP", study)
    toy.trial((0.9, 0.99), lam=1e-3)  # of the search alone
    toy.trial((0.9, 0.8), lam=3e-5, rho=0.07, seed=2, phase="confirm", test=(0.9, 0.8))
    results = tmp_path / "results.jsonl"
    arms = ablations.choose_arms(results, tmp_path / "runs", None)
    assert (arms["sam", "wcr"].lam, arms["sam", "wcr"].opt["rho"]) == (3e-5, 0.07)
    assert (arms["cram", "wcr"].lam, arms["cram", "wcr"].opt["rho"]) == (1e-5, 0.05)  # search_spaces/small_cnn.py
    sources = {(e["optimizer"], e["regularizer"]): e["source"] for e in lines(results, "arm")}
    assert [arm for arm, source in sources.items() if source == "study"] == [("sam", "wcr")]
    assert len(sources) == 12
    assert "sam + wcr: study, lam 3e-05" in capsys.readouterr().out
    # The choice holds without the study's records, and is not mixed with another one.
    assert ablations.choose_arms(results, tmp_path / "nothing", None) == arms
    toy.trial((0.9, 0.9), optimizer="sgd", regularizer="none", seed=2, phase="confirm", test=(0.9, 0.8))
    with pytest.raises(ValueError, match=r"got another one for sgd \+ none; remove the file"):
        ablations.choose_arms(results, tmp_path / "runs", None)


# ---- trainings -----------------------------------------------------------------------------------------------------


def trained_weights(config, times):
    training = Training(load_task(config), config)
    if times:
        trainings.add_penalty_outside(training, times)
    while not training.finished:
        training.train_to_evaluation(evaluate=False)
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


@pytest.mark.parametrize(("regularizer", "lam"), [("wcr", 1e-4), ("hoyer_square", 1e-3)])
def test_without_a_perturbation_inside_equals_outside_bit_for_bit(regularizer, lam):
    config = make_config("sam", regularizer, lam, rho=0.0)
    assert torch.equal(trained_weights(config, 0), trained_weights(config, 1))
    without = make_config("sam", "none", 0.0, rho=0.0)
    assert not torch.equal(trained_weights(config, 1), trained_weights(without, 0))
    perturbed = make_config("sam", regularizer, lam, rho=0.1)
    assert not torch.equal(trained_weights(perturbed, 0), trained_weights(perturbed, 1))


def test_cram_has_its_penalty_twice_inside():
    """Where nothing is compressed or perturbed, two gradients are twice one."""
    config = make_config("cram", "wcr", 1e-4, rho=0.0, sparsities=0.0)
    inside, once, twice = (trained_weights(config, times) for times in (0, 1, 2))
    torch.testing.assert_close(inside, twice, rtol=1e-3, atol=1e-5)
    assert (inside - once).abs().max() > 1e-3


def test_outside_the_perturbation_is_along_the_gradient_of_the_loss_alone():
    config = make_config("sam", "wcr", 1e-2, rho=0.1)
    task = load_task(config)
    training = Training(task, config)
    trainings.add_penalty_outside(training, 1)
    parameters, seen, plain_loss = list(training.model.parameters()), [], task.loss

    def loss(model, batch):
        found = plain_loss(model, batch)
        seen.append([p.detach().clone() for p in parameters])
        if len(seen) == 1:
            seen[0] = [seen[0], torch.autograd.grad(found, parameters, retain_graph=True)]
        return found

    task.loss = loss
    training.run_epoch()
    (at_w, gradients), perturbed = seen[:2]
    norm = torch.sqrt(sum(g.square().sum() for g in gradients))
    for w, g, moved in zip(at_w, gradients, perturbed, strict=True):
        torch.testing.assert_close(moved, w + 0.1 * g / norm, rtol=1e-5, atol=1e-6)


def test_a_training_reports_every_scope_and_the_layers_that_vanish():
    config = make_config("sgd").model_copy(update={"model": {"width": 16, "depth": 1}})
    job = trainings.TrainingJob("name", {}, config, curvature=True)
    found = job.run()
    json.dumps(found, allow_nan=False)
    assert set(found["acc"]) == {"dense", "global", "min_kept", "uniform"}
    assert set(found["acc"]["global"]) == set(found["layers_removed"]) == {"0.9", "0.96", "0.98"}
    assert found["hessian"] > 0
    assert found["v_geometric"] <= found["v_mean"]
    task = load_task(job.config)
    model = task.build_model()
    with torch.no_grad():
        first, *others = task.prunable(model).values()
        first.mul_(1e-6)  # the smallest 10% are more than this tensor
        assert first.numel() < 0.1 * (first.numel() + sum(other.numel() for other in others))
    measured = trainings.measure(task, model.eval(), job.config)
    assert (measured["layers_removed"]["0.9"], measured["fewest_left"]["0.9"]) == (1, 0)


def test_a_training_that_diverges_is_a_result():
    found = trainings.TrainingJob("name", {}, make_config("sgd", lam=1e30)).run()
    assert found["diverged"].startswith("diverged at step")
    assert set(found) == {"diverged", "cpu_s"}


# ---- logistic regression -------------------------------------------------------------------------------------------


def test_the_optimum_is_scikit_learns_and_satisfies_the_conditions_of_optimality():
    """|gradient of the loss| = lam where w is not 0, and at most lam where it is; the intercept's is 0."""
    lam, data = 1e-2, logistic.split(100)
    weight, bias = (part.clone().requires_grad_() for part in logistic.optimum(data, lam))
    F.binary_cross_entropy_with_logits(data.train_x @ weight + bias, data.train_y).backward()
    active = weight.detach() != 0
    assert 0 < active.sum() < 64
    np.testing.assert_allclose(weight.grad[active].abs(), lam, rtol=1e-3)
    assert (weight.grad[~active].abs() <= lam * 1.001).all()
    assert abs(bias.grad.item()) < 1e-5


def test_masks_close_and_subgradients_change_signs(monkeypatch):
    monkeypatch.setattr(logistic, "CHECKPOINTS", (300, 600))
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in logistic.METHODS:
            results[method] = logistic.LogisticJob(method, 1e-2, 100).run()["at"]["600"]
    best = logistic.LogisticJob(logistic.OPTIMUM, 1e-2, 100).run()["at"]["optimum"]
    subgradient = results["l1, subgradient"]
    assert subgradient["zeros"] == 0
    assert subgradient["flips"] > 0.1
    assert best["objective"] < subgradient["objective"] < best["objective"] + 0.01
    assert results["mask, log"]["zeros"] > 0.3
    assert results["mask, log"]["flips"] < 0.01


# ---- tables --------------------------------------------------------------------------------------------------------


def arm_line(optimizer, regularizer, seed, acc, **more):
    levels, kept, uniform = (
        dict.fromkeys(("0.9", "0.96", "0.98"), a) for a in (acc, acc + 0.1 * (regularizer == "none"), acc + 0.5)
    )
    return {
        "event": "job",
        "job": f"arm/{optimizer} + {regularizer}/seed={seed}",
        **{"ablation": "arm", "optimizer": optimizer, "regularizer": regularizer, "seed": seed, "cpu_s": 30.0},
        "acc": {"dense": 0.99, "global": levels, "min_kept": kept, "uniform": uniform},
        "layers_removed": {"0.9": 0, "0.96": 1, "0.98": 2},
        "fewest_left": {"0.9": seed, "0.96": seed - 100, "0.98": 0},
        **{"v_mean": 1e-3, "v_geometric": 1e-4, "norm": 10.0, "hessian": 100.0, **more},
    }


def test_the_tables_of_hand_made_lines():
    entries = [
        arm_line("sam", regularizer, seed, base + 0.01 * (seed - 100) * (regularizer == "wcr"), hessian=hessian)
        for regularizer, base, hessian in (("wcr", 0.8, 10.0), ("none", 0.7, 100.0))
        for seed in range(100, 112)
    ]
    entries.append({**arm_line("sam", "wcr", 111, 0.0), "job": "arm/sam + wcr/seed=112", "diverged": "at step 3"})
    text = tables.section(entries)
    # sam + wcr at 0.96: 0.80, 0.81, ..., 0.91, mean 0.855, variance 13e-4; t(0.975, 11) = 2.200985
    half = 2.200985 * math.sqrt(13e-4 / 12)
    interval = f"0.855 [{0.855 - half:.3f}, {0.855 + half:.3f}]"
    assert f"| sam | wcr | 12 | 0.990 [0.990, 0.990] | 1.00 | 0 to 11 | {interval} |" in text
    # Twelve differences of one sign: p = 2 / 2^12, and 44 comparisons are planned.
    row = next(line for line in text.splitlines() if line.startswith("| sam + wcr - none: global |"))
    assert row.startswith("| sam + wcr - none: global | 12 | +0.155 |")
    assert row.endswith(f"| {2 / 2**12:.2g} | {44 * 2 / 2**12:.2g} | higher |")
    assert "over these 44 comparisons" in " ".join(text.split())
    # Uniform pruning gives every network 0.5 more: the same gain, so no difference of gains.
    assert "| sam + wcr - none: uniform | 12 | +0.155 |" in text
    assert "| sam + wcr - none: (global) - (uniform) | 12 | +0.000 |" in text
    # 16 weights kept give 0.1 more to the network without a regularizer alone.
    assert "| sam + none: global, 16 kept - global | 12 | +0.100 |" in text
    assert "| sam + wcr - none: (global) - (global, 16 kept) | 12 | +0.100 |" in text
    assert "| sam | wcr | 12 | 10 | 10 [10, 10] | 1e+03 [1e+03, 1e+03] |" in text  # 10 x 10^2
    assert "| sam, log10 eigenvalue: wcr - none | 12 | -1.000 |" in text
    assert "25 jobs on seeds 100 to 111" in text
    assert "trainings that diverged: 1" in " ".join(text.split())
    assert "| sgd | none | 0 | - | - | - | - | - | - |" in text


def test_every_planned_comparison_can_be_significant():
    """The smallest p of 12 pairs, times the number of comparisons of its ablation, is below the threshold."""
    for comparisons in (
        tables.scope_comparisons,
        tables.placement_comparisons,
        tables.curvature_comparisons,
        tables.logistic_comparisons,
    ):
        assert 0 < len(comparisons([])) * 2 / 2**ablations.NUM_SEEDS < ALPHA


def test_comparisons_without_data_count_in_the_correction():
    pairs = dict(enumerate([0.5] * 6)), dict(enumerate([0.4] * 6))
    shown = comparison_table([("there", *pairs), ("to come", {}, {}), ("to come too", {}, {})])
    assert "| there | 6 | +0.100 | +0.100 to +0.100 | 0.031 | 0.094 | no |" in shown  # p = 2 / 2^6, times 3
    assert "| to come | 0 |" in shown


def test_the_exponents_of_synthetic_variances():
    points = [
        (lam, decay, 3 * lam**0.5 * decay**-0.25) for lam, decay in itertools.product((1e-6, 1e-5, 1e-3), (0.01, 0.04))
    ]
    fit = tables.fit_exponents(points)
    assert (fit["lam"], fit["weight_decay"]) == (pytest.approx(0.5), pytest.approx(-0.25))
    assert fit["r2"] < 1 - 1e-3  # the ratio alone does not explain it
    exact = tables.fit_exponents([(lam, decay, 3 * (lam / decay) ** 0.5) for lam, decay, _ in points])
    assert (exact["slope"], exact["r2"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert tables.fit_exponents(points[:4]) is None  # two values of lam


def test_the_slopes_of_the_papers_table():
    """Those that are usually cited, .41 for SGD and .47 for SAM, are of lam >= 1e-5."""
    rows = {(row[0], row[2]): row[5] for row in tables.paper_rows()}
    assert (rows["sgd", "1e-05"], rows["sam", "1e-05"]) == ("0.410", "0.474")
    assert (rows["sgd", "1e-06"], rows["sam", "1e-06"]) == ("0.352", "0.448")


def test_slopes_come_from_the_lines_seed_by_seed():
    entries = [
        {
            **{"event": "job", "ablation": "variance", "optimizer": "sgd", "seed": seed, "lam": lam, "cpu_s": 1.0},
            **{"job": f"{seed} {lam} {decay}", "weight_decay": decay, "acc": {"dense": 0.9}},
            **{"v_mean": (lam / decay) ** (0.4 + 0.1 * (seed - 100)), "v_geometric": 1.0 * (lam / decay)},
        }
        for seed, lam, decay in itertools.product((100, 101, 102), trainings.LAMS, trainings.WEIGHT_DECAYS)
    ]
    text = tables.variance_text(entries)
    half = 4.302653 * 0.1 / math.sqrt(3)  # slopes .4, .5, .6; t(0.975, 2)
    slope = f"0.500 [{0.5 - half:.3f}, {0.5 + half:.3f}]"
    assert f"| sgd | mean over tensors | 1e-06 | 3 | {slope} | {slope} | -0.500 [" in text
    assert "| sgd | geometric mean over tensors | 1e-05 | 3 | 1.000 [1.000, 1.000] |" in text


def test_the_page_keeps_what_people_wrote(tmp_path):
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    append(results, "job", **{k: v for k, v in arm_line("sam", "wcr", 100, 0.5).items() if k != "event"})
    page.write_text(f"above\n{ablations.START}\nold table\n{ablations.END}\nbelow\n")
    ablations.main(["--write", "--results", str(results), "--page", str(page)])
    once = page.read_text()
    assert once.startswith(f"above\n{ablations.START}\n\n### Configurations")
    assert once.endswith(f"{ablations.END}\nbelow\n")
    assert "old table" not in once
    ablations.main(["--write", "--results", str(results), "--page", str(page)])
    assert page.read_text() == once
