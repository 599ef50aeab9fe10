"""A report as one HTML page that needs no network."""

import base64
import io
import re
from functools import partial
from pathlib import Path

import jinja2
import matplotlib

from service.views.report.blocks import Image, Plot, Report
from trainables.files import write_atomically

__all__ = ["write_html"]

PIXELS_PER_INCH = 92  # figures are drawn for words of 8 to 10 points, a little smaller than the page's
BLACK = "#000000"  # axes, ticks and black lines; the page's style sheet colours words


def write_html(report: Report, path: Path) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.jinja")
    text = page.render(report=report, svg=as_svg, data_address=as_data_address, kind=lambda block: type(block).__name__)
    write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))


def as_svg(plot: Plot, prefix: str) -> str:
    """A figure as an SVG element for the page, in whose text colour black things are drawn: it is light in dark mode.

    Args:
        plot: The figure.
        prefix: Makes the identifiers of its parts unique in the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        plot.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(BLACK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}-', svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    width = plot.figure.get_size_inches()[0] * PIXELS_PER_INCH
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view[0]} style="max-width:{width:.0f}px">{svg[svg.index(">") + 1 :]}'
    )


def as_data_address(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.path.read_bytes()).decode()}"
