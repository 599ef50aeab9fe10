import shutil

import pytest

from service.search.queue import Next, Proposal
from service.search.reprune import Reprune
from tests.service.conftest import fill
from trainables.pruning_method import PruningMethod

SNIP = PruningMethod(criterion="snip", scope="uniform")


def keep(toy, *keys):
    for key in keys:
        folder = toy.state.trial_folder(key) / "trained"
        folder.mkdir()
        (folder / "config.json").write_text("{}")


def handed_out(queue):
    found = []
    while isinstance(proposal := queue.next(), Proposal):
        found.append(proposal)
    return found


def test_every_finished_trial_is_handed_out_once(toy):
    fill(toy)
    finished = [t.key for t in toy.state.trials.values() if t.status == "finished"]
    keep(toy, *finished)
    queue = Reprune(toy.recorder, [SNIP], [0.99])
    assert (queue.num_finished, queue.num_left, queue.not_kept) == (9, 9, [])
    proposals = handed_out(queue)
    assert [proposal.key for proposal in proposals] == finished
    for proposal in proposals:
        assert [method.label for method in proposal.config.pruning] == ["magnitude global", "snip uniform"]
        assert proposal.config.levels == (0.0, 0.9, 0.99)
        assert proposal.config.read_test == (proposal.phase == "confirm")
    assert queue.num_left == 0
    assert queue.next() is Next.WAIT  # their results are not recorded


def test_what_is_recorded_is_not_evaluated_again(toy):
    keep(toy, toy.trial((0.9, 0.5), others={"snip uniform": (0.6, None)}), other := toy.trial((0.9, 0.5), lam=2e-5))
    queue = Reprune(toy.recorder, [SNIP], [])
    assert (queue.num_measured, [proposal.key for proposal in handed_out(queue)]) == (1, [other])


def test_networks_that_were_not_kept_are_named(toy):
    kept, gone = toy.trial((0.9, 0.5)), toy.trial((0.9, 0.5), lam=2e-5)
    keep(toy, kept, gone)
    shutil.rmtree(toy.state.trial_folder(gone) / "trained")
    queue = Reprune(toy.recorder, [SNIP], [])
    assert (queue.not_kept, [proposal.key for proposal in handed_out(queue)]) == ([gone], [kept])


def test_trials_of_a_lottery_are_left_out(toy):
    key = toy.trial((0.9, 0.5), pruning_schedule="imp")
    keep(toy, key)
    queue = Reprune(toy.recorder, [SNIP], [])
    assert (queue.of_rounds, queue.num_left) == ([key], 0)


def test_a_trial_that_fails_again_is_over(toy):
    key = toy.trial((0.9, 0.5))
    keep(toy, key)
    queue = Reprune(toy.recorder, [SNIP], [])
    handed_out(queue)
    toy.recorder.trial_ended(key, failure=("error", "out of luck"), is_complete=lambda result: False)
    assert queue.next() is Next.FINISHED
    assert toy.state.trials[key].status == "finished"
    assert [(row["status"], row["reason"]) for row in toy.summary()["failures"]] == [("not pruned", "out of luck")]


def test_a_sparsity_out_of_range_is_refused(toy):
    keep(toy, toy.trial((0.9, 0.5)))
    with pytest.raises(ValueError, match=r"sparsity: must be in \[0, 1\)"):
        Reprune(toy.recorder, [SNIP], [1.5])


def test_only_selected_networks_are_handed_out(toy):
    fill(toy)
    finished = [t for t in toy.state.trials.values() if t.status == "finished"]
    keep(toy, *(t.key for t in finished))
    queue = Reprune(toy.recorder, [SNIP], [], lambda trial: trial.phase == "confirm" and trial.arm == "sam + wcr")
    chosen = [t.key for t in finished if (t.phase, t.arm) == ("confirm", "sam + wcr")]
    assert 0 < len(chosen) < len(finished)
    assert [proposal.key for proposal in handed_out(queue)] == chosen
    assert queue.num_finished == len(chosen)
