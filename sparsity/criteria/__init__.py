"""Which weight goes first: a function each, weights -> same-shape scores; a higher score is kept longer."""
