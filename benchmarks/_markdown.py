"""What the generated parts of the documentation's pages share."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.statistics import compare, holm, interval_of_mean

__all__ = [
    "ALPHA",
    "Comparison",
    "compared",
    "comparison_table",
    "paragraph",
    "replace_section",
    "table",
    "with_interval",
]

ALPHA = 0.05
Comparison = tuple[str, Mapping[int, float], Mapping[int, float]]  # what is compared, ours, theirs, by seed


def paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def with_interval(found: Sequence[float]) -> str:
    """Mean and Student's 95% interval of fractions; without the interval for fewer than two."""
    mean, interval = statistics.fmean(found), interval_of_mean(found)
    if interval is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{max(0.0, interval[0]):.3f}, {min(1.0, interval[1]):.3f}]"


def compared(
    comparisons: Sequence[Comparison], *, verdicts: tuple[str, str] = ("higher", "lower"), margin: float | None = None
) -> list[dict[str, Any] | None]:
    """Paired differences, with Holm's correction over all comparisons that are planned.

    A comparison without data yet counts as p = 1, so a correction is never smaller than that of the complete results.

    Args:
        comparisons: What was planned.
        verdicts: What a significant positive and negative difference is called.
        margin: A difference that is not significant is called equal if its interval lies within +-margin.

    Returns:
        For each comparison None without data, otherwise what `service.statistics.compare` returns with `corrected`, its
        corrected p, and `verdict`: one of `verdicts`, "equal within MARGIN" or "no".
    """
    found = [compare(ours, theirs) for _, ours, theirs in comparisons]
    corrected = holm([1.0 if row is None else row["p"] for row in found])

    def verdict(row: Mapping[str, Any], p: float) -> str:
        if p < ALPHA:
            return verdicts[row["difference"] < 0]
        equal = margin and row["interval"] and max(map(abs, row["interval"])) <= margin
        return f"equal within {margin:g}" if equal else "no"

    return [
        row and {**row, "corrected": p, "verdict": verdict(row, p)} for row, p in zip(found, corrected, strict=True)
    ]


def comparison_table(
    comparisons: Sequence[Comparison],
    *,
    verdicts: tuple[str, str] = ("higher", "lower"),
    margin: float | None = None,
) -> str:
    """What `compared` finds, as a table; its arguments are the same."""
    rows = []
    for (name, *_), row in zip(comparisons, compared(comparisons, verdicts=verdicts, margin=margin), strict=True):
        if row is None:
            rows.append([name, "0", *["-"] * 5])
            continue
        interval = "-" if row["interval"] is None else f"{row['interval'][0]:+.3f} to {row['interval'][1]:+.3f}"
        numbers = (f"{row['difference']:+.3f}", interval, f"{row['p']:.2g}", f"{row['corrected']:.2g}")
        rows.append([name, str(row["n"]), *numbers, row["verdict"]])
    return table(["comparison", "n", "difference", "95% interval", "p", "p (Holm)", "significant"], rows)


def replace_section(page: Path, start: str, end: str, text: str) -> None:
    """Write `text` between two markers of a page; the rest of the page stays.

    Raises:
        ValueError: If the page lacks a marker.
    """
    before, first, rest = page.read_text().partition(start)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"{page}: must have {start} and, after it, {end}, got another order or none")
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
