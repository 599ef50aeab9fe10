"""Which weight goes first: a function each, weights -> same-shape scores; a higher score is kept longer.

    criterion(weights, *, ...) -> list of tensors, one for each weight, of its shape and on its device, without a graph

weights: the prunable parameters. A caller looks at a criterion's signature and gives what it names, by these names; any
other keyword is a argument and has a default.

    generator   a torch.Generator, the only source of random numbers
    gradients   one tensor for each weight, of its shape: the gradient of the task's loss in evaluation mode
    model       the nn.Module in evaluation mode whose own parameters the weights are, found by identity: no copies and
                no detached tensors. It comes back as it was.
    batch       one calibration batch, unaugmented, whatever `loss_fn` and `forward` take
    loss_fn     (model, batch) -> the task's loss, a differentiable scalar; calls the model once
    forward     (model, batch) -> the model's outputs before any loss, such as logits: a differentiable tensor (N, ...),
                one row a sample, in which samples do not mix
    inputs      the batch's model input, a tensor (N, ...) such that `model(inputs)` runs

What is missing, or a batch that does not go through the model, is a ValueError. `compensation` returns a list that can
do more: it gives the bias shifts for any masks. Lines with `Cost:` count backward passes over the batch, and memory in
multiples of the weights' own, the returned scores included, activations and autograd's graph left out.
"""
