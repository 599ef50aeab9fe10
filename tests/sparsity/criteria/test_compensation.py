import copy
import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap

from sparsity import masks
from sparsity.criteria import _layer_gradients
from sparsity.criteria.compensation import compensation
from sparsity.criteria.magnitude import magnitude


def forward(model, batch):
    return model(batch)


def double(*layers):
    """Layers in float64, in evaluation mode, with BatchNorm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    net = nn.Sequential(*layers).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for t in (module.weight.data, module.bias.data, module.running_mean):
                t.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


def least_squares(net, layer, x):
    """Shift and mean squared move for each weight, by lstsq on per-sample Jacobians of the weight and an added bias."""
    weight = layer.weight.detach()
    channels = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)

    def outputs(w, b, sample):
        hook = layer.register_forward_hook(lambda m, args, out: out + b.view(channels))
        name = next(n for n, p in net.named_parameters() if p is layer.weight)
        result = functional_call(net, {name: w}, (sample[None],)).flatten()
        hook.remove()
        return result

    bias = torch.zeros(len(weight), dtype=weight.dtype)
    jacobians = vmap(jacrev(outputs, (0, 1)), (None, None, 0))(weight, bias, x)
    Jw, Jb = (J.detach().flatten(0, 1).numpy() for J in jacobians)  # (N * K, *weight), (N * K, rows)
    shifts, moves = torch.empty_like(weight), torch.empty_like(weight)
    for i in np.ndindex(*weight.shape):
        removed = weight[i].item() * Jw[:, *i][:, None]  # what the bias has to make up for
        by_bias = Jb[:, i[0]][:, None]
        shift = np.linalg.lstsq(by_bias, removed, rcond=None)[0]
        shifts[i], moves[i] = shift.item(), ((removed - by_bias @ shift) ** 2).sum() / len(x)
    return shifts, moves


CASES = {
    "linear": ([nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2, bias=False)], (4,)),
    "tokens": ([nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Flatten(), nn.Linear(10, 2)], (5, 4)),
    "convolution": (
        [
            nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.Conv2d(3, 2, (2, 1), dilation=2, padding=(2, 1), padding_mode="circular"),
            nn.Tanh(),
            nn.Flatten(),
            nn.LazyLinear(2),
        ],
        (2, 5, 6),
    ),
    "groups": ([nn.Conv2d(4, 6, 3, padding="same", groups=2), nn.Tanh(), nn.Conv2d(6, 2, 3)], (4, 4, 4)),
    "one position": ([nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)], (4, 2, 2)),
}


@pytest.mark.parametrize("block", [_layer_gradients.BLOCK, 1], ids=["at once", "sample by sample"])
@pytest.mark.parametrize("case", CASES)
def test_shift_and_score_are_the_least_squares_solution_on_per_sample_jacobians(case, block, monkeypatch):
    monkeypatch.setattr(_layer_gradients, "BLOCK", block)
    layers, shape = copy.deepcopy(CASES[case])
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1)).double()
    nn.Sequential(*layers).double().eval()(x)  # sizes the lazy layer
    net = double(*layers)
    pruned = [m for m in net if isinstance(m, nn.Linear | nn.Conv2d)]
    scores = compensation([m.weight for m in pruned], model=net, batch=x, forward=forward)
    for layer, score, shift in zip(pruned, scores, scores.shifts, strict=True):
        shifts, moves = least_squares(net, layer, x)
        torch.testing.assert_close(shift, shifts, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(score, moves, rtol=1e-8, atol=1e-14)


def linear_model():
    net = double(nn.Linear(6, 3, bias=False), nn.Flatten())
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(2)).double() + 1
    return net, x, compensation([net[0].weight], model=net, batch=x, forward=forward)


def pruned_copy(net, scores, weight_names, kept):
    copied = copy.deepcopy(net)
    scores.compensate(copied, kept)
    with torch.no_grad():
        for name, mask in zip(weight_names, kept, strict=True):
            copied.get_parameter(name).masked_fill_(~mask, 0)
    return copied


def test_a_linear_models_outputs_move_by_the_score_and_by_more_for_any_other_shift():
    net, x, scores = linear_model()
    for i in np.ndindex(3, 6):
        kept = torch.ones(3, 6, dtype=torch.bool)
        kept[i] = False
        pruned = pruned_copy(net, scores, ["0.weight"], [kept])
        move = (pruned(x) - net(x)).square().sum(1).mean().item()
        assert move == pytest.approx(scores[0][i].item())
        for other in (0.1, -0.1):
            pruned[0].bias.data[i[0]] += other
            assert (pruned(x) - net(x)).square().sum(1).mean().item() > move
            pruned[0].bias.data[i[0]] -= other


def test_the_sum_of_the_shifts_is_the_best_shift_for_all_removed_weights_together():
    net, x, scores = linear_model()
    kept = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    pruned = pruned_copy(net, scores, ["0.weight"], [kept])
    removed = x @ net[0].weight.detach().masked_fill(kept, 0).T
    torch.testing.assert_close(pruned[0].bias.detach(), removed.mean(0))  # of outputs that are linear: the mean
    assert scores.state([kept]).keys() == {"0.bias"}


def test_folding_into_the_running_mean_is_adding_the_bias_by_hand():
    net = double(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(9, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    scores = compensation([net[0].weight], model=net, batch=x, forward=forward)
    kept = masks.prune(scores, 0.6)
    pruned = pruned_copy(net, scores, ["0.weight"], kept)
    shift = scores.shifts[0].masked_fill(kept[0], 0).sum((1, 2, 3))
    z = F.conv2d(x, net[0].weight.masked_fill(~kept[0], 0), bias=shift)
    torch.testing.assert_close(pruned(x), net[1:](z))
    assert scores.state(kept).keys() == {"1.running_mean"}
    assert pruned.state_dict().keys() == net.state_dict().keys()


class Uses(nn.Module):
    """A convolution without a bias whose output goes to a BatchNorm, and, in some ways, elsewhere."""

    def __init__(self, also):
        super().__init__()
        self.conv, self.norm, self.also = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), also

    def forward(self, x):
        z = self.conv(x)
        if self.also == "relu":
            z = z.relu_()  # in place: the same tensor, no longer the convolution's
        out = self.norm(z)
        if self.also == "skip":
            out = out + z
        return self.norm(out) if self.also == "shared" else out


@pytest.mark.parametrize(
    ("also", "entry"),
    [(None, "norm.running_mean"), ("relu", "conv.bias"), ("skip", "conv.bias"), ("shared", "conv.bias")],
)
def test_folds_only_where_the_batchnorm_alone_takes_the_output(also, entry):
    net = double(Uses(also))[0]
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    scores = compensation([net.conv.weight], model=net, batch=x, forward=forward)
    kept = masks.prune(scores, 0.5)
    assert scores.state(kept).keys() == {entry}
    by_hand = copy.deepcopy(net)
    by_hand.conv.bias = nn.Parameter(scores.shifts[0].masked_fill(kept[0], 0).sum((1, 2, 3)))
    by_hand.conv.weight.data.masked_fill_(~kept[0], 0)
    torch.testing.assert_close(pruned_copy(net, scores, ["conv.weight"], kept)(x), by_hand(x))


def test_compensating_sets_values_so_that_levels_may_follow_each_other():
    net = double(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(9, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    scores = compensation([net[0].weight, net[3].weight], model=net, batch=x, forward=forward)
    ranking, model = masks.rank(scores), copy.deepcopy(net)
    for level in (0.5, 0.9, 0.2):
        scores.compensate(model, ranking.masks(level))
    once = copy.deepcopy(net)
    scores.compensate(once, ranking.masks(0.2))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), once.state_dict().values(), strict=True))
    scores.compensate(model, ranking.masks(0.0))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), net.state_dict().values(), strict=True))


def test_where_the_outputs_do_not_see_the_bias_there_is_no_shift():
    """Outputs are differences of positions: a bias cancels, a weight does not. A: by hand, E (x_1 - x_0)^2."""
    net = double(nn.Linear(2, 1))
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    scores = compensation([net[0].weight], model=net, batch=x, forward=lambda m, b: m(b).diff(dim=1))
    A = (x[:, 1] - x[:, 0]).square().mean(0)
    torch.testing.assert_close(scores[0], (net[0].weight.detach().square() * A))
    assert not scores.shifts[0].any()


def test_random_signs_have_the_exact_sums_as_expectation():
    net = double(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    weights = [net[0].weight, net[3].weight, net[5].weight]
    exact = compensation(weights, model=net, batch=x, forward=forward)
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for num_probes in (1, 200):
        probed = compensation(weights, model=net, batch=x, forward=forward, num_probes=num_probes, generator=generator)
        pairs = zip([*probed, *probed.shifts], [*exact, *exact.shifts], strict=True)
        errors[num_probes] = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
        assert all((score >= 0).all() for score in probed)
    assert errors[200] < errors[1] / 5  # 1 / sqrt(200) of it is expected
    assert errors[200] < 0.1


def test_needs_no_parameter_that_requires_gradients():
    net = double(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x, weights = torch.randn(5, 4).double(), [net[0].weight, net[2].weight]
    expected = compensation(weights, model=net, batch=x, forward=forward)
    with torch.no_grad():
        result = compensation(weights, model=net.requires_grad_(False), batch=x, forward=forward)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def tied():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    return net


def run(net, batch=None, call=forward, weights=None, **arguments):
    batch = torch.zeros(4, 2) if batch is None else batch
    return compensation(weights or [net[0].weight], model=net.eval(), batch=batch, forward=call, **arguments)


ONE = nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run(ONE, call=lambda m, b: m(b).sum()),
            "compensation: the layer of 0.weight must take the samples as rows, in one call, got inputs of shapes"
            " [(4, 2)] for outputs of shape ()",
        ),
        (
            lambda: run(ONE, torch.zeros(0, 2)),
            "compensation: forward must return outputs (N, ...) of at least one sample, got shape (0, 2)",
        ),
        (
            lambda: run(ONE, call=lambda m, b: {"logits": m(b)}),
            "compensation: forward must return outputs (N, ...) of at least one sample, got dict",
        ),
        (
            lambda: run(ONE, call=lambda m, b: m(b).detach()),
            "compensation: forward must return differentiable outputs, got some without a graph",
        ),
        (
            lambda: run(ONE, call=lambda m, b: m(m(b))),
            "compensation: the layer of 0.weight must take the samples as rows, in one call, got inputs of shapes"
            " [(4, 2), (4, 2)] for outputs of shape (4, 2)",
        ),
        (
            lambda: run(ONE, call=lambda m, b: m(b.view(2, 2, 2).flatten(0, 1)).view(2, 4)),
            "compensation: the layer of 0.weight must take the samples as rows, in one call, got inputs of shapes"
            " [(4, 2)] for outputs of shape (2, 4)",
        ),
        (
            lambda: run(nn.Sequential(nn.Conv1d(1, 1, 1))),
            "compensation: weights must be those of one nn.Linear or nn.Conv2d each, got 0.weight of Conv1d",
        ),
        (
            lambda: run(nn.Sequential(nn.LayerNorm(2), ONE)),
            "compensation: weights must be those of one nn.Linear or nn.Conv2d each, got 0.weight of LayerNorm",
        ),
        (
            lambda: run(tied()),
            "compensation: weights must be those of one nn.Linear or nn.Conv2d each, got 0.weight of Linear, Linear",
        ),
        (
            lambda: run(nn.Sequential(nn.Linear(2, 1001))),
            "compensation: num_probes must be given for more than 1000 outputs a sample (each costs a backward pass),"
            " got 1001 outputs",
        ),
        (lambda: run(ONE, num_probes=0), "compensation: num_probes must be a whole number >= 1, got 0"),
        (
            lambda: run(ONE, num_probes=1),
            "compensation: generator must be given with num_probes (it draws the signs), got none",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == message


def test_num_probes_may_be_a_whole_float():
    net = double(nn.Linear(3, 2))
    one, same = (
        compensation(
            [net[0].weight],
            model=net,
            batch=torch.eye(3, dtype=torch.float64),
            forward=forward,
            num_probes=num_probes,
            generator=torch.Generator().manual_seed(0),
        )
        for num_probes in (2, 2.0)
    )
    assert torch.equal(one[0], same[0])


def digits_mlp(seed):
    """An MLP of 64-100-100-10 on scikit-learn's digits, trained for a second; the images and labels of each split."""
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    torch.manual_seed(seed)
    rows = torch.randperm(len(images))
    train, test = ((images[r].float() / 16, labels[r]) for r in (rows[:1400], rows[1400:]))
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(train[0]), train[1]).backward()
        optimizer.step()
    return net.eval(), train, test


def test_against_magnitude_on_digits_without_finetuning():
    """The source claims a lower loss at every level, up to 0.9 removed. Here: lower at 0.5, higher at 0.9 (at 0.8 too,
    mostly: 1.31 ± 0.37 against 0.87 ± 0.20).

    To first order removals add up; at 0.8 they no longer do: the shifts make up for inputs that are gone as well.
    """
    levels, results = (0.5, 0.8, 0.9), {}
    for seed in range(3):
        net, train, test = digits_mlp(seed)
        names = ["0.weight", "2.weight", "4.weight"]
        weights = [net.get_parameter(name) for name in names]
        compensated = compensation(weights, model=net, batch=train[0][:512], forward=forward)
        for level in levels:
            kept = masks.prune(compensated, level)
            pruned = {"compensation": pruned_copy(net, compensated, names, kept)}
            pruned["magnitude"] = copy.deepcopy(net)
            for name, mask in zip(names, masks.prune(magnitude(weights), level), strict=True):
                pruned["magnitude"].get_parameter(name).data.masked_fill_(~mask, 0)
            for criterion, model in pruned.items():
                logits = model(test[0]).detach()
                accuracy = (logits.argmax(1) == test[1]).float().mean().item()
                results.setdefault((criterion, level), []).append((F.cross_entropy(logits, test[1]).item(), accuracy))
    loss = {key: statistics.mean(loss for loss, _ in values) for key, values in results.items()}
    for key, values in results.items():
        losses, accuracies = zip(*values, strict=True)
        print(
            *key,
            f"loss {statistics.mean(losses):.3f} ± {statistics.stdev(losses):.3f}",
            f"acc {statistics.mean(accuracies):.3f} ± {statistics.stdev(accuracies):.3f}",
        )
    assert loss["compensation", 0.5] < loss["magnitude", 0.5]
    assert loss["compensation", 0.9] > loss["magnitude", 0.9]


def test_weights_of_half_precision_are_squared_in_float32():
    """One input of 1 and -1: A = 1 and B = 0, so the score is w^2, which float16 rounds to 0."""
    net = nn.Linear(1, 1).half().eval()
    net.weight.data.fill_(2.0**-13)
    (score,) = compensation([net.weight], model=net, batch=torch.tensor([[1.0], [-1.0]]).half(), forward=forward)
    assert score.item() == 2.0**-26
