"""One call, `step(closure)`: the optimizer decides how many gradients it needs."""
