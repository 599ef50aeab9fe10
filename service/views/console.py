"""The console that tables are printed on."""

import shutil

from rich.console import Console, RenderableType
from rich.measure import Measurement

__all__ = ["make_console", "print_whole", "say", "warn"]


def make_console(*, quiet: bool = False) -> Console:
    """A console with the terminal's width, or 160 columns if the output is a notebook, a file or a pipe.

    A quiet one prints only what `warn` gives it.

    A notebook gets plain text like a file, although its kernel asks for colours. Rich's own output for notebooks needs
    another package for live displays, and is a display of its own for each line.
    """
    console = Console(highlight=False)
    if console.is_jupyter:
        console = Console(highlight=False, force_jupyter=False, force_terminal=False)
    if console.is_dumb_terminal:
        console.size = shutil.get_terminal_size()  # Rich assumes 80 columns unless both width and height are set
    if not console.is_terminal:
        console.width = 160
    console.quiet = quiet
    return console


def say(console: Console, text: str) -> None:
    """Print a line as it is: without markup, colours or breaks."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def warn(console: Console, text: str, *, style: str = "yellow") -> None:
    """Print a line that matters even if the console is quiet: a warning, or why a sweep stops."""
    if console.quiet:
        console = Console(file=console.file, highlight=False)
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def print_whole(console: Console, renderable: RenderableType) -> None:
    """Print tables at their full width: in a narrow terminal, wrap long lines instead of truncating them."""
    width = console.width
    unlimited = console.options.update(max_width=1000)
    console.width = max(width, Measurement.get(console, unlimited, renderable).maximum)
    console.print(renderable, crop=False)
    console.width = width
