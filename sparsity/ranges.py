"""Search ranges of the methods' arguments.

They are plain values, so no search library is needed.
"""

import math
from dataclasses import dataclass

__all__ = ["Range"]


@dataclass(frozen=True)
class Range:
    """The values that a search tries for an argument.

    Args:
        low: Lowest value.
        high: Highest value.
        initial: First value, in [low, high].
        log: Whether values are drawn uniformly in log(value) rather than in the value.

    Raises:
        ValueError: If a number is not finite, low > high, initial is outside [low, high], or log with low <= 0.
    """

    low: float
    high: float
    initial: float
    log: bool = True

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"Range: low and high must be finite with low <= high, got {self.low} and {self.high}")
        if not self.low <= self.initial <= self.high:
            raise ValueError(f"Range: initial must be in [{self.low}, {self.high}], got {self.initial}")
        if self.log and self.low <= 0:
            raise ValueError(f"Range: low must be > 0 with log=True (or pass log=False), got {self.low}")
