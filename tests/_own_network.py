"""The files and commands of docs/your-own-network.md."""

from pathlib import Path

from tests._pages import blocks

PAGE = Path(__file__).parents[1] / "docs" / "your-own-network.md"


def marked():
    """The code that is marked as a file, by its name."""
    found = {marker: code for _, marker, code in blocks(PAGE.read_text()) if marker.startswith("file: ")}
    return {marker.removeprefix("file: "): code for marker, code in found.items()}


def files():
    return {name: code for name, code in marked().items() if name.endswith(".py")}


def commands():
    return marked()["commands"].splitlines()
