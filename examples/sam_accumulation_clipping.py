"""SAM with gradient accumulation, clipping and bf16 autocast, and a regularizer.

The order, for one update from the parts of one batch:

1. The closure runs over *all* parts. SAM calls it at w and at w + e, so both gradients are of the whole batch. A
   perturbation for each part would be another algorithm, with a noisier e.
2. Each part's mean loss counts by its number of examples, so that parts of any size add up to the mean over the batch.
3. The penalty is added once per gradient, not once per part.
4. Clipping by norm comes last in the closure. It rescales the gradient, so it leaves e = rho g / |g| as it is and only
   clips the update. Clipping by value would change the direction of e: do that to the second gradient alone.

bf16 needs no loss scaling: wrap the forward pass, and keep weights and gradients in float32. The summed gradients of
the parts equal those of the whole batch, except with layers that use statistics of the batch, such as BatchNorm.
"""

import torch
import torch.nn.functional as F


def make_step(model, R, optimizer, *, lam, max_norm, dtype=torch.bfloat16):
    """Return `step(parts)`: one update from a list of (inputs, labels), which returns the loss before it."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    device = params[0].device.type

    def step(parts):
        num = sum(len(labels) for _, labels in parts)

        def closure():
            optimizer.zero_grad()
            total = torch.zeros((), device=params[0].device)
            for inputs, labels in parts:
                with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                    loss = F.cross_entropy(model(inputs), labels, reduction="sum") / num
                loss.backward()  # frees the part's activations; the gradients add up
                total += loss.detach()
            total += lam * R.backward(lam)
            torch.nn.utils.clip_grad_norm_(params, max_norm)
            return total

        return optimizer.step(closure)

    return step
