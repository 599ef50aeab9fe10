import pytest
import torch
from transformers import Trainer, TrainingArguments

from examples import transformers_trainer
from sparsity.optimizers.sam import SAM

SGD = {"optim": "sgd", "max_steps": 1, "learning_rate": 0.5, "per_device_train_batch_size": 8, "disable_tqdm": True}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the Trainer makes its output folder in the working folder


def test_an_update_adds_exactly_the_penalty():
    """Once although three parts are accumulated, and not clipped: w(lam) - w(0) = -lr lam dR/dw at the start."""
    _, start = transformers_trainer.make_model()
    found = {
        lam: transformers_trainer.train(lam, **SGD, gradient_accumulation_steps=3, max_grad_norm=0.01)[1].weights
        for lam in (0.0, 1e-2)
    }
    for w, plain, regularized in zip(start, found[0.0], found[1e-2], strict=True):
        w = w.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(w.abs().sum() ** 2 / w.square().sum(), w)  # Hoyer-square
        assert gradient.abs().max() > 1
        torch.testing.assert_close((regularized - plain).double(), -0.5 * 1e-2 * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.extras
def test_it_lowers_the_penalty():
    plain, regularized = (transformers_trainer.train(lam, max_steps=8, disable_tqdm=True)[1] for lam in (0.0, 1e-3))
    assert regularized() < 0.9 * plain()


def test_sam_says_why_it_does_not_fit():
    class Network(torch.nn.Linear):
        def forward(self, x, labels):
            return {"loss": super().forward(x).square().mean()}

    network = Network(2, 2)
    trainer = Trainer(
        network,
        TrainingArguments("out", use_cpu=True, report_to="none", max_steps=1, disable_tqdm=True),
        train_dataset=[{"x": torch.ones(2), "labels": 0}] * 8,
        optimizers=(SAM(network.parameters(), lr=0.1), None),
    )
    with pytest.raises(ValueError, match="SAM: step must be given a closure"):
        trainer.train()
