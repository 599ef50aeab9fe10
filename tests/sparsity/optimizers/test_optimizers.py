"""The contract of every file in sparsity/optimizers/."""

import copy
import inspect

import pytest
import torch

import sparsity

NAMES = sparsity.names("optimizers")
PERTURBING = [n for n in NAMES if "rho" in inspect.signature(sparsity.load("optimizers", n)).parameters]
WITH_A_BASE = [n for n in NAMES if "base" in inspect.signature(sparsity.load("optimizers", n)).parameters]
# every optimizer as it stands, and those with a base on the other base too
ARMS = [(n, {}) for n in NAMES] + [(n, {"base": "adamw"}) for n in WITH_A_BASE]
arms = pytest.mark.parametrize(("name", "arguments"), ARMS)


class Run:
    """A tiny network with dropout, trained by an optimizer; the data of a step depend on its number alone."""

    def __init__(self, name, lr=0.05, **arguments):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(6, 2)
        )
        self.unused = torch.nn.Parameter(torch.ones(3))  # never has a gradient
        params = [{"params": [*self.net[0].parameters(), self.unused]}, {"params": self.net[3].parameters()}]
        self.optimizer = sparsity.load("optimizers", name)(params, lr, **arguments)
        self.num_calls = 0

    def closure(self, step, set_to_none=True):
        self.optimizer.zero_grad(set_to_none=set_to_none)
        self.num_calls += 1
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = self.net(x).square().sum()
        loss.backward()
        return loss.detach()

    def train(self, start, stop, **options):
        for step in range(start, stop):
            torch.manual_seed(step)  # dropout
            self.optimizer.step(lambda step=step: self.closure(step, **options))
        return self

    @property
    def weights(self):
        return [p.detach().clone() for p in [*self.net.parameters(), self.unused]]


def assert_equal(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@arms
def test_trains_and_leaves_what_has_no_gradient(name, arguments):
    run = Run(name, **arguments)
    before = run.weights
    after = run.train(0, 5).weights
    assert torch.equal(after[-1], before[-1])
    assert all(p.isfinite().all() for p in after)
    assert not any(torch.equal(a, b) for a, b in zip(after[:-1], before[:-1], strict=True))


@arms
def test_state_round_trips_in_mid_run(name, arguments, tmp_path):
    straight = Run(name, **arguments).train(0, 7)
    half = Run(name, **arguments).train(0, 4)
    torch.save((half.net.state_dict(), half.optimizer.state_dict()), tmp_path / "half.pt")
    resumed = Run(name, lr=9.9, **arguments)  # the saved learning rate counts
    net, optimizer = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed.net.load_state_dict(net)
    resumed.optimizer.load_state_dict(optimizer)
    assert_equal(resumed.train(4, 7).weights, straight.weights)


@arms
def test_state_dict_is_unchanged_by_loading_it(name, arguments):
    run = Run(name, **arguments).train(0, 3)
    saved = copy.deepcopy(run.optimizer.state_dict())
    other = Run(name, **arguments)
    other.optimizer.load_state_dict(saved)
    again = other.optimizer.state_dict()
    assert again["param_groups"] == saved["param_groups"]
    assert again["state"].keys() == saved["state"].keys()
    for key, state in saved["state"].items():
        assert again["state"][key].keys() == state.keys()
        assert all(torch.equal(again["state"][key][k], v) for k, v in state.items() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("name", [n for n in PERTURBING if n in WITH_A_BASE and n != "cram"])  # cram compresses too
def test_rho_zero_is_the_base_bit_for_bit(name, base):
    more = {"safe": {"admm_lam": 0.0}}.get(name, {})  # else it is ADMM
    plain = Run(base, weight_decay=1e-2).train(0, 6)
    off = Run(name, base=base, rho=0.0, weight_decay=1e-2, **more).train(0, 6)
    assert_equal(plain.weights, off.weights)
    on = Run(name, base=base, rho=0.5, weight_decay=1e-2, **more).train(0, 6)
    assert not torch.equal(on.weights[0], plain.weights[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gradient", [0.0, 1e-7, 1e-3, 3e4])  # a float16 overflows above 65504, |g| is up to 1.2e5
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sam", {}),
        ("sam", {"adaptive": True}),
        ("s2sam", {}),
        ("friendly_sam", {}),
        ("safe", {}),
        ("cram", {"normalize": True, "sparsities": 0.0}),
    ],
)
def test_half_precision_is_displaced_by_rho(name, arguments, gradient, dtype):
    w = torch.full((4, 4), 2.0, dtype=dtype, requires_grad=True)
    optimizer = sparsity.load("optimizers", name)([w], 0.0, rho=2.0, **arguments)
    seen = []

    def closure():
        seen.append(w.detach().clone())
        w.grad = torch.full_like(w, gradient)
        return torch.zeros(())

    for _ in range(2 if name == "s2sam" else 1):  # S2SAM's first step has no displacement
        optimizer.step(closure)
    e = 0.0 if gradient == 0 else 2.0 * 2 / 4 if arguments.get("adaptive") else 2.0 / 4  # |w| g and g point alike
    assert [x.unique().tolist() for x in (seen[0], seen[1], w)] == [[2.0], [2.0 + e], [2.0]]


@arms
def test_zeroed_and_missing_gradients_are_the_same(name, arguments):
    assert_equal(
        Run(name, **arguments).train(0, 4, set_to_none=True).weights,
        Run(name, **arguments).train(0, 4, set_to_none=False).weights,
    )


@arms
def test_an_exception_in_the_closure_leaves_the_weights(name, arguments):
    run, same = Run(name, **arguments).train(0, 2), Run(name, **arguments).train(0, 2)
    run.num_calls = 0
    run.optimizer.step(lambda: run.closure(2))
    calls_a_step = run.num_calls
    run = Run(name, **arguments).train(0, 2)
    before = run.weights
    for failing_call in range(1, calls_a_step + 1):
        run.num_calls = 0

        def closure(failing_call=failing_call):
            loss = run.closure(2)
            if run.num_calls == failing_call:
                raise ZeroDivisionError
            return loss

        with pytest.raises(ZeroDivisionError):
            run.optimizer.step(closure)
        assert_equal(run.weights, before)
    assert_equal(run.train(2, 4).weights, same.train(2, 4).weights)  # and goes on as if nothing had happened


@arms
def test_step_returns_the_loss_of_the_first_call(name, arguments):
    run = Run(name, **arguments).train(0, 2)
    losses = []
    returned = run.optimizer.step(lambda: losses.append(run.closure(2)) or losses[-1])
    assert returned is losses[0]


@arms
def test_gradients_are_enabled_in_the_closure_and_left_as_they_were(name, arguments):
    run = Run(name, **arguments)
    with torch.no_grad():
        run.train(0, 2)
        assert not torch.is_grad_enabled()


@arms
def test_without_any_gradient_nothing_moves(name, arguments):
    run = Run(name, **arguments)
    before = run.weights
    run.optimizer.step(lambda: torch.tensor(1.0))
    assert_equal(run.weights, before)


@arms
def test_empty_parameters_are_left_alone(name, arguments):
    empty, w = torch.ones(0, 8, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    optimizer = sparsity.load("optimizers", name)([empty, w], 0.1, **arguments)

    def closure():
        optimizer.zero_grad()
        loss = empty.sum() + w.square().sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    assert w.isfinite().all()
    assert (w != 1).all()


@arms
def test_a_schedule_acts_on_it(name, arguments):
    run = Run(name, **arguments)
    schedule = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 0.0)
    before = run.weights
    run.train(0, 2)
    schedule.step()
    assert_equal(run.weights, before)


@arms
@pytest.mark.parametrize("argument", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_negative_arguments_are_refused(name, arguments, argument, value):
    given = {"lr": 0.1, argument: value}
    if argument != "lr" and argument not in Run(name, **arguments).optimizer.param_groups[0]:
        pytest.skip(f"{name} has no {argument}")
    with pytest.raises(ValueError, match=rf"^\w+: {argument} must be >= 0 and finite, got {value}$"):
        sparsity.load("optimizers", name)([torch.ones(1)], **given, **arguments)


@arms
@pytest.mark.parametrize("argument", ["lr", "weight_decay"])
@pytest.mark.parametrize("later", [False, True])
def test_negative_arguments_of_a_group_are_refused(name, arguments, argument, later):
    cls, group = sparsity.load("optimizers", name), {"params": [torch.ones(1)], argument: -0.1}
    optimizer = cls([torch.ones(1)], 0.1, **arguments)
    with pytest.raises(ValueError, match=rf"^\w+: {argument} must be (>= 0 and finite|0 or left out .*), got -0.1$"):
        optimizer.add_param_group(group) if later else cls([group], 0.1, **arguments)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("safe", "sparsity", 0.5),
        ("safe", "scope", "2:4"),
        ("safe", "admm_lam", 0.1),
        ("safe", "interval", 8),
        ("safe", "num_steps", 100),
        ("cram", "sparsities", (0.5,)),
        ("cram", "plus", False),
        ("cram", "scope", "2:4"),
        ("cram", "sparse_grad", False),
        ("cram", "normalize", True),
        ("cram", "seed", 1),
    ],
)
def test_a_group_cannot_have_an_argument_of_all_groups(name, argument, value, later):
    cls, group = sparsity.load("optimizers", name), {"params": [torch.ones(2, 2)], argument: value}
    optimizer = cls([torch.ones(2, 2)], 0.1)
    message = rf"^\w+: {argument} must be an argument of the optimizer \(all groups\), got .* in a parameter group$"
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group) if later else cls([group], 0.1)


@arms
def test_an_unknown_argument_is_named_with_the_valid_ones(name, arguments):
    cls = sparsity.load("optimizers", name)
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: arguments must be among lr, .*, got 'speed'$"):
        cls([torch.ones(1)], 0.1, speed=3, **arguments)


@arms
def test_a_step_does_not_wait_for_the_device(name, arguments):
    """On the meta device, where no value can be looked at."""
    params = [torch.empty(shape, device="meta", requires_grad=True) for shape in [(4, 3, 2, 2), (5, 8), (5,)]]
    optimizer = sparsity.load("optimizers", name)(params, 0.1, **arguments)

    def closure():
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss.detach()

    for _ in range(2):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 0.1
