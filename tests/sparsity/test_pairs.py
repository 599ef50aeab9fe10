"""Every optimizer with every regularizer, used as the training loop uses them: bit-identical when resumed."""

import copy

import pytest
import torch

import sparsity


class Training:
    """A tiny network with dropout; the data and the noise of a step depend on its number alone."""

    def __init__(self, optimizer, regularizer):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(6, 2)
        )
        self.R = sparsity.load("regularizers", regularizer)([p for p in self.net.parameters() if p.dim() > 1])
        self.R.attach(self.net)
        parameters = (*self.net.parameters(), *self.R.parameters())
        self.trained = list(dict.fromkeys(p for p in parameters if p.requires_grad))
        self.opt = sparsity.load("optimizers", optimizer)(self.trained, 0.05)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, 10)
        self.parts = {"net": self.net, "R": self.R, "opt": self.opt, "lr_schedule": self.schedule}

    def run(self, start, stop):
        for step in range(start, stop):
            torch.manual_seed(step)
            x = torch.randn(8, 4)

            def closure(x=x):
                self.opt.zero_grad()
                loss = self.net(x).square().sum() + 1e-3 * self.R()
                loss.backward()
                return loss.detach()

            self.opt.step(closure)
            self.R.project()
            self.schedule.step()
        return self

    def state(self):
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return self

    def weights(self):
        return [p.detach().clone() for p in self.trained]


@pytest.mark.parametrize("regularizer", sparsity.names("regularizers"))
@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
def test_save_load_continue_equals_never_stopping(tmp_path, optimizer, regularizer):
    straight = Training(optimizer, regularizer).run(0, 6)
    torch.save(Training(optimizer, regularizer).run(0, 3).state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = Training(optimizer, regularizer).load(state).run(3, 6)
    assert all(p.isfinite().all() for p in straight.weights())
    assert all(torch.equal(a, b) for a, b in zip(straight.weights(), resumed.weights(), strict=True))

    folded = copy.deepcopy(straight.net)
    straight.R.fold(folded)
    x = torch.randn(5, 4)
    assert torch.equal(folded.eval()(x), straight.net.eval()(x))
    start = Training(optimizer, regularizer).weights()
    assert not any(torch.equal(a, b) for a, b in zip(straight.weights(), start, strict=True))  # gates are trained too
