import pytest
import torch

from trainables.lottery import Lottery, Ticket, has_sparsity, hold_at_zero, weights_left


def mask(*kept):
    return torch.tensor(kept, dtype=torch.bool)


def test_held_weights_are_zero_and_get_no_gradient():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    hold_at_zero({"w": weight}, {"w": mask(1, 0, 1)})
    assert weight.tolist() == [1, 0, 3]
    (weight * torch.tensor([4.0, 5.0, 6.0])).sum().backward()
    assert weight.grad.tolist() == [4, 0, 6]


def test_frozen_weights_can_be_held():
    weight = torch.tensor([1.0, 2.0, 3.0])
    hold_at_zero({"w": weight}, {"w": mask(1, 0, 1)})
    assert weight.tolist() == [1, 0, 3]


def test_masks_of_a_checkpoint_move_to_the_networks_device(tiny):
    """Checkpoints are read on the CPU."""
    lottery, restored = Lottery(tiny()), Lottery(tiny())
    lottery.masks = {"w": mask(1, 0)}
    lottery.tickets = {0.5: Ticket({"w": torch.ones(2)}, {"w": mask(0, 1)})}
    restored.load_state_dict(lottery.state_dict(), torch.device("meta"))
    assert restored.masks["w"].is_meta
    assert restored.tickets[0.5].masks["w"].is_meta


def test_weights_left_counts_over_all_tensors():
    assert weights_left({"a": mask(1, 0, 0, 0), "b": mask(1)}) == 2 / 5
    assert weights_left({}) == 1


@pytest.mark.parametrize(("sparsity", "expected"), [(0.0, True), (0.5, True), (0.6, True), (0.7, False)])
def test_has_sparsity_allows_half_a_weight_per_tensor(sparsity, expected):
    """5 of 10 weights in 2 tensors are removed; pruning to 0.6 may round to 5, pruning to 0.7 may not."""
    masks = {"a": mask(1, 0, 0, 0, 1), "b": mask(1, 0, 0, 1, 1)}
    assert has_sparsity(masks, sparsity) is expected


def test_one_phase_keeps_nothing(tiny):
    lottery = Lottery(tiny())
    model = torch.nn.Linear(2, 2)
    assert lottery.num_phases == 1
    assert not lottery.rewinds_to(0)
    lottery.end_phase(0, model, {"weight": model.weight}, scores=pytest.fail, gates=pytest.fail)
    assert (lottery.masks, lottery.tickets) == ({}, {})


def test_phases_prune_rewind_and_keep_tickets(tiny):
    """Four weights, half of them removed after the first phase of two."""
    config = tiny(
        pruning_schedule="imp",
        pruning_sched={"fraction": 0.5, "rewind_epoch": 1},
        max_epochs=2,
        target_sparsity=0.5,
        sparsities=(),
    )
    lottery = Lottery(config)
    assert lottery.num_phases == 2
    assert [epoch for epoch in range(5) if lottery.rewinds_to(epoch)] == [1]
    early = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    lottery.keep_early({"weight": early}, {})
    early += 10  # a copy was kept
    trained = torch.nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        trained.weight.copy_(torch.tensor([[0.1, -9.0, 0.2, 8.0]]))
    lottery.end_phase(
        0,
        trained,
        {"weight": trained.weight},
        scores=lambda: {"weight": trained.weight.detach().abs()},
        gates=pytest.fail,
    )
    assert list(lottery.tickets) == [0.0]
    second = torch.nn.Linear(4, 1, bias=False)
    lottery.begin_phase(second, {"weight": second.weight})
    assert second.weight.tolist() == [[0, 2, 0, 4]]

    restored = Lottery(config)
    restored.load_state_dict(lottery.state_dict(), torch.device("cpu"))
    restored.end_phase(1, second, {"weight": second.weight}, scores=pytest.fail, gates=pytest.fail)
    assert restored.tickets.keys() == {0.0, 0.5}
    assert torch.equal(restored.tickets[0.0].weights["weight"], trained.weight)
    assert restored.tickets[0.5].masks["weight"].tolist() == [[False, True, False, True]]
