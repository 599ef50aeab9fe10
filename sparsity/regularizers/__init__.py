"""Penalties on the weights: a class each, `R = WCR(weights)`, `R()` the unscaled penalty."""
