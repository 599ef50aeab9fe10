"""Pruning criteria: one function per file that scores weights.

A weight with a higher score is kept longer.

    criterion(weights, *, ...) -> list of tensors, one per weight, of its shape and on its device, without a graph

`weights` are the prunable parameters. The other arguments are keywords. A caller reads the criterion's signature and
passes the data that it names; any other keyword is an argument with a default.

    generator   a torch.Generator, the only source of random numbers
    gradients   one tensor per weight, of its shape: the gradient of the task's loss in evaluation mode
    model       the nn.Module in evaluation mode that owns the weights, compared by identity: copies and detached
                tensors are refused. The criterion leaves it unchanged.
    batch       one calibration batch, not augmented, in the form that `loss_fn` and `forward` take
    loss_fn     (model, batch) -> the task's loss, a differentiable scalar; calls the model once
    batches     the same calibration data in smaller batches, for criteria that sum over batches, so that the memory for
                activations does not grow with the number of samples
    token_mask  batch -> bool tensor (N, T), True = token, False = padding; or None if the batch has no padding
    forward     (model, batch) -> the model's outputs before any loss, such as logits: a differentiable tensor (N, ...)
                with one row per sample; a row depends on its own sample only
    inputs      the model's input in that batch, a tensor (N, ...) such that `model(inputs)` works

Missing data, or a batch that does not fit the model, raise ValueError. The result of `compensation` can also shift
biases for any masks.

The section "Cost" of a docstring counts backward passes over the batch, and memory in multiples of the weights' own,
including the returned scores but not activations and autograd's graph.
"""
