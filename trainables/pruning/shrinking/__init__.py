"""Exact structural shrinking: remove the channels of a pruned network that its output does not depend on."""

from trainables.pruning.shrinking.resizing import resize
from trainables.pruning.shrinking.shrink import Shrunk, shrink
from trainables.pruning.shrinking.size import LayerSize, NetworkSize, measure_size
from trainables.pruning.shrinking.tracing import Graph, trace

__all__ = ["Graph", "LayerSize", "NetworkSize", "Shrunk", "measure_size", "resize", "shrink", "trace"]
