import copy

import pytest
import torch

from sparsity.optimizers.sam import SAM
from tests.examples._by_hand import make_network, sam_step_by_hand

pytestmark = pytest.mark.extras
L = pytest.importorskip("lightning")


def fit(module, num_batches=1, **arguments):
    torch.manual_seed(0)
    inputs, labels = torch.randn(16 * num_batches, 6), torch.randint(0, 3, (16 * num_batches,))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=16)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(accelerator="cpu", max_epochs=1, **off, **arguments).fit(module, data)
    return inputs, labels


@pytest.mark.parametrize("max_norm", [0.1, 100.0])  # clipped and not
def test_a_step_is_that_of_the_formulas(max_norm):
    from examples.lightning_module import SparseModule

    module = SparseModule(make_network(), lam=1e-2, rho=0.3, lr=0.5)
    before = copy.deepcopy(module.model)
    batch = fit(module, gradient_clip_val=max_norm)
    expected = sam_step_by_hand(before, *batch, lam=1e-2, rho=0.3, lr=0.5, max_norm=max_norm)
    for name, p in module.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-4, atol=2e-6)


def test_accumulation_is_refused_with_sam_and_right_without():
    from examples.lightning_module import SparseModule

    with pytest.raises(ValueError, match="accumulate_grad_batches must be 1 with SAM, got 2"):
        fit(SparseModule(make_network()), num_batches=2, accumulate_grad_batches=2)
    module = SparseModule(make_network(), lam=1e-2, rho=0.0, lr=0.5)
    before = copy.deepcopy(module.model)
    batch = fit(module, num_batches=2, accumulate_grad_batches=2)
    expected = sam_step_by_hand(before, *batch, lam=1e-2, rho=0.0, lr=0.5, max_norm=1e9)
    for name, p in module.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-4, atol=2e-6)


def test_accumulation_with_sam_would_be_another_step():
    """Why it is refused. If this fails, Lightning repeats all parts, and the example need not refuse them."""
    from examples.lightning_module import SparseModule

    class Unguarded(SparseModule):
        def configure_optimizers(self):
            return SAM(self.model.parameters(), lr=self.lr, rho=self.rho)

    module = Unguarded(make_network(), lam=1e-2, rho=0.3, lr=0.5)
    before = copy.deepcopy(module.model)
    batch = fit(module, num_batches=2, accumulate_grad_batches=2)
    expected = sam_step_by_hand(before, *batch, lam=1e-2, rho=0.3, lr=0.5, max_norm=1e9)
    assert max((p - expected[name]).abs().max() for name, p in module.model.named_parameters()) > 0.01


def test_bf16_and_the_digits():
    from examples import lightning_module

    arguments = {"max_steps": 20, "precision": "bf16-mixed"}
    plain, regularized = (lightning_module.train(lam, **arguments) for lam in (0.0, 1e-3))
    assert regularized.R() < 0.8 * plain.R()
    assert all(p.dtype == torch.float32 for p in regularized.parameters())
