"""A task is a file with one class: build_model, batches, loss, evaluate, prunable, and its objective."""
