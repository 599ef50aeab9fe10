"""What turns trials into a sweep: search, cluster, records, tracking and views.

`Sweep` defines and runs a sweep, `read_result` and `best` read the records. These names, and `Result`, are the stable
interface; other modules may change between versions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.results import Result, best, read_result
    from service.sweep import Sweep

__distribution__ = "sparsity-sweeps"
__all__ = ["Result", "Sweep", "best", "read_result"]


def __getattr__(name: str) -> Any:
    if name == "Sweep":  # lazily: `sweeps status` and the workers do not need it
        from service.sweep import Sweep

        return Sweep
    if name in __all__:
        from service import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
