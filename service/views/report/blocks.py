"""What a report consists of, independent of its format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["Block", "Cell", "Code", "Image", "Items", "Plot", "Report", "Section", "Table", "Text", "cells"]


@dataclass(frozen=True)
class Text:
    """A paragraph. `strong` is for the one sentence that a reader takes away."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Items:
    """A list of short lines."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Commands, to be copied."""

    text: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        bold: Whether it is significantly the best of its column.
    """

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        caption: What the cells are, with the statistic and the split.
        header: The names of the columns. The first `num_labels` columns hold words, the others numbers.
        folded: Whether the page shows it only on demand.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_labels: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure drawn for the report.

    Args:
        name: Its file name without an ending, unique in the report.
        caption: What is drawn; also the text for readers who cannot see it.
    """

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Image:
    """A figure that a trial has drawn."""

    path: Path
    caption: str


Block = Text | Items | Code | Table | Plot | Image


@dataclass(frozen=True)
class Section:
    """A section.

    Args:
        anchor: Its address in the page.
        level: 1 for a sweep, 2 for a section of it.
    """

    title: str
    anchor: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True)
class Report:
    title: str
    sections: Sequence[Section]


def cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]
