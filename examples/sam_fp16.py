"""SAM with fp16 autocast and loss scaling, gradient accumulation, clipping, and a regularizer.

fp16 gradients underflow unless the loss is scaled. Prefer bf16 where the hardware has it
(sam_accumulation_clipping.py). `GradScaler.step` refuses closures, and `GradScaler.unscale_` runs once per update, but
SAM takes two gradients. So the closure scales the losses, divides the gradients by the scale itself, and then adds the
penalty, which is not scaled.

An overflow must not reach SAM: e = rho g / |g| would be NaN. The closure then raises, SAM restores w, and the update is
skipped with a smaller scale, as GradScaler does it.
"""

import torch
import torch.nn.functional as F


class Overflow(Exception):
    """A scaled gradient is not finite."""


class LossScale:
    """A loss scale that is halved after an overflow and doubled after 2000 updates without one."""

    def __init__(self, value=2.0**16, interval=2000):
        self.value, self.interval, self.num_good = value, interval, 0

    def update(self, overflow):
        self.num_good = 0 if overflow else self.num_good + 1
        if overflow:
            self.value /= 2
        elif self.num_good % self.interval == 0:
            self.value *= 2


def make_step(model, R, optimizer, *, lam, max_norm, scale):
    """Return `step(parts)`: one update from a list of (inputs, labels).

    It returns the loss before the update, or None if the update was skipped.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    device = params[0].device.type

    def step(parts):
        num = sum(len(labels) for _, labels in parts)

        def closure():
            optimizer.zero_grad()
            total = torch.zeros((), device=params[0].device)
            for inputs, labels in parts:
                with torch.autocast(device, torch.float16):
                    loss = F.cross_entropy(model(inputs), labels, reduction="sum") / num
                (loss * scale.value).backward()
                total += loss.detach()
            gradients = [p.grad for p in params if p.grad is not None]
            torch._foreach_div_(gradients, scale.value)
            if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                raise Overflow
            total += lam * R.backward(lam)
            torch.nn.utils.clip_grad_norm_(params, max_norm)
            return total

        try:
            loss = optimizer.step(closure)
        except Overflow:
            loss = None
        scale.update(overflow=loss is None)
        return loss

    return step
