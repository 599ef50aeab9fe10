import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def blocks(text):
    """(language, marker, code) of each fenced block; the marker is the comment on the line before it, "" without one."""
    pattern = r"(?:<!-- ([^\n]*?) -->\n)?```(\w*)[^\n]*\n(.*?)^```$"
    return [(kind, marker, code) for marker, kind, code in re.findall(pattern, text, re.DOTALL | re.MULTILINE)]


def test_the_page_of_methods_is_what_the_docstrings_say():
    """`python docs/make_methods.py` brings it up to date; a method without a cost has no place in it."""
    page = runpy.run_path(str(DOCS / "make_methods.py"))["page"]()
    assert page == (DOCS / "methods.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("| - |")]
