"""The formats of a report, one per file: a function that takes a report and the path to write."""

from collections.abc import Callable
from pathlib import Path

from service.views.report.blocks import Report
from service.views.report.formats.html import write_html
from service.views.report.formats.latex import write_latex
from service.views.report.formats.markdown import write_markdown

__all__ = ["FORMATS", "write_report"]

FORMATS: dict[str, tuple[str, Callable[[Report, Path], None]]] = {  # name -> (file ending, writer)
    "html": (".html", write_html),
    "markdown": (".md", write_markdown),
    "latex": (".tex", write_latex),
}


def write_report(report: Report, form: str, path: Path) -> None:
    """Write a report.

    Args:
        report: Its content.
        form: One of FORMATS. "html" is one file; the others also write figures, into a folder beside it.
        path: The file.

    Raises:
        ValueError: If the figures' folder, the path without its ending, would be the file itself.
    """
    if form != "html" and not path.suffix:
        raise ValueError(f"to: must end in {FORMATS[form][0]} (its figures go to {path}), got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[form][1](report, path)
