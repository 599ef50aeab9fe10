import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_methods_is_what_the_docstrings_say():
    """`python docs/make_methods.py` brings it up to date; a method without a cost has no place in it."""
    page = runpy.run_path(str(DOCS / "make_methods.py"))["page"]()
    assert page == (DOCS / "methods.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("| - |")]
