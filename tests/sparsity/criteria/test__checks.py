import pytest
import torch

from sparsity.criteria._checks import calibrating

FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"  # torch's words


@pytest.mark.parametrize("error", [RuntimeError(FULL), torch.OutOfMemoryError("CUDA out of memory")])
def test_running_out_of_memory_is_not_the_batchs_fault(error):
    with pytest.raises(type(error)) as raised, calibrating("here"):
        raise error
    assert raised.value is error


def test_other_errors_of_torch_name_the_batch():
    message = r"^here: batch must go through the model \(is its shape right\?\), got .* shapes cannot be multiplied"
    with pytest.raises(ValueError, match=message), calibrating("here"):
        torch.ones(2, 3) @ torch.ones(2, 3)
