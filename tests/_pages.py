"""Reading the examples of Markdown pages."""

import re

__all__ = ["blocks"]


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Language, marker and code of each fenced block.

    The marker is the HTML comment on the line before the block, "" without one.
    """
    pattern = r"(?:<!-- ([^\n]*?) -->\n)?```(\w*)[^\n]*\n(.*?)^```$"
    return [(kind, marker, code) for marker, kind, code in re.findall(pattern, text, re.DOTALL | re.MULTILINE)]
