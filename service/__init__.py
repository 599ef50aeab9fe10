"""What turns trials into a sweep: search, cluster, records, tracking and views. `Sweep` is the way in."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.sweep import Sweep

__distribution__ = "sparsity-sweeps"
__all__ = ["Sweep"]


def __getattr__(name: str) -> Any:
    if name == "Sweep":  # lazily: `sweeps status` and the workers do not need it
        from service.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
