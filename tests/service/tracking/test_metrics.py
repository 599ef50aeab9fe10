"""Which metrics of a trial MLflow gets."""

from service.tracking.metrics import metrics_left_out, metrics_of

TASKS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
REPORT = {"epoch": 2, "seconds": 9.0, "loss": 0.5, "penalty": 1.0, "lr": 1e-3, "acc_dense": 0.5, "acc_pruned": 0.4}
DIAGNOSTICS = {
    **{f"penalty_ratio_{name}": 0.1 for name in ("start", "end", "max")},
    **{f"penalty_share_{name}": 0.1 for name in ("start", "end")},
    **{"loss_gap": 0.1, "sharpness": 3.0},
}


def rows(metrics, levels):
    sizes = {"macs": 4, "macs_left": 0.5, "parameters": 7}
    return [{"sparsity": s, **metrics, "loss": 1.0, "collapsed": 0.0, **sizes} for s in levels]


def events(curve, test, target):
    """The events of a trial, as far as they have metrics."""
    config = {"lam": 1e-5, "opt": {"rho": 0.1}}
    end = {"event": "end", "status": "finished", "report": REPORT, "diagnostics": DIAGNOSTICS, "objective": "acc"}
    end |= {"target_sparsity": target, "pruned": [{"label": "magnitude uniform", "curve": curve, "test": test}]}
    return [{"event": "start", "config": config}, {"event": "evaluation", "report": REPORT}, end]


def names(*trial):
    return {name for event in trial for name, _, _ in metrics_of(event)}


def test_eight_tasks_with_generated_answers_have_fewer_than_40_names():
    validated = {"acc": 0.5, "acc_greedy": 0.4, **{f"acc_{t}": 0.5 for t in TASKS}, "chance": 0.3}
    validated["greedy_agreement"] = 0.9
    tested = {"acc": 0.5, "acc_generated": 0.3, **{name: v for name, v in validated.items() if name != "acc"}}
    tested |= {f"acc_generated_{t}": 0.3 for t in TASKS}
    levels = (0.0, 0.2, 0.3)
    confirmed = events(rows(validated, levels), rows(tested, levels), 0.3)
    found = names(*confirmed)
    assert len(found) == 39
    objective = {f"{split}acc_pruned/{level:g}" for split in ("", "test_") for level in levels}
    assert objective | {"acc_by_sparsity", "test_acc_by_sparsity", "lam", "rho", "sharpness", "macs"} <= found
    assert {"test_acc_generated_pruned/0.3", "test_acc_greedy_pruned/0.3", "acc_greedy_pruned/0.3"} <= found
    assert "test_acc_generated_pruned/0.2" in metrics_left_out(confirmed[-1])
    assert "sparsity" in confirmed[-1]["pruned"][0]["curve"][0]  # the event has everything
    searched = names(*events(rows(validated, levels), None, 0.3))
    assert len(searched) <= 39
    assert {f"acc_{t}_pruned/0.3" for t in TASKS} <= searched


def test_nothing_is_left_out_while_it_fits():
    curve = rows({"acc": 0.5, "f1": 0.4, "tversky": 0.3}, (0.0, 0.5))
    trial = events(curve, curve, 0.5)
    assert not metrics_left_out(trial[-1])
    assert {"f1_pruned/0", "f1_pruned/0.5", "test_tversky_pruned/0"} <= names(*trial)
    many = rows({"acc": 0.5, "f1": 0.4, "tversky": 0.3}, [i / 10 for i in range(10)])
    fewer = events(many, None, 0.5)
    assert metrics_left_out(fewer[-1]) == {
        f"{name}_pruned/{i / 10:g}" for name in ("f1", "tversky") for i in range(10) if i != 5
    }
    assert metrics_left_out(fewer[0]) == metrics_left_out(fewer[1]) == set()
    assert metrics_left_out(fewer[-1] | {"status": "diverged"}) == set()
