"""Sizes and latencies of exported networks as text."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["COST_COLUMNS", "cost_table"]

COST_COLUMNS = {
    "parameters": "parameters",
    "nonzero": "not 0",
    "macs": "MACs",
    "file_bytes": "file",
    "gzip_bytes": "gzip",
    "eager_ms_1": "PyTorch, batch 1",
    "eager_ms_64": "PyTorch, batch 64",
    "onnx_ms_1": "ONNX Runtime, batch 1",
    "onnx_ms_64": "ONNX Runtime, batch 64",
}


def cost_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The rows of `trainables.pruning.exporting.costs`: a header, and a row for each network."""
    return ["network", *COST_COLUMNS.values()], [
        [row["network"], *(cell(name, row.get(name)) for name in COST_COLUMNS)] for row in rows
    ]


def cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if "_ms_" in column:
        return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
    number, prefix = prefixed(value)
    return f"{number:.3g} {prefix}{'B' if column.endswith('bytes') else ''}".strip()


def prefixed(number: float) -> tuple[float, str]:
    """A number between 1 and 1000 with its prefix: 1234567 is 1.234567 M."""
    for prefix in ("", "k", "M"):
        if number < 999.5:
            return number, prefix
        number /= 1000
    return number, "G"
