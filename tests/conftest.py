"""What the tests of faults report: a row each of the table in docs/reliability.md."""

import json
from pathlib import Path

import pytest

COLUMNS = ("fault", "lost", "computed again", "goes on after")
START, END = "<!-- faults: written by make test-faults -->", "<!-- faults end -->"


def pytest_addoption(parser):
    parser.addoption("--table", type=Path, help="write what fault_row was told into this page's table of faults")


@pytest.fixture
def fault_row(request):
    """A function: fault, lost, computed_again, seconds_to_go_on, all text. A row is kept only if its test passes."""
    rows = []
    yield lambda *texts: rows.append(dict(zip(COLUMNS, texts, strict=True)))
    if request.node.stash.get(PASSED, False):
        request.config.stash.setdefault(ROWS, []).extend(rows)


ROWS, PASSED = pytest.StashKey[list](), pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_sessionfinish(session):
    page, rows = session.config.getoption("--table"), session.config.stash.get(ROWS, [])
    if page is not None and rows:
        page.write_text(with_rows(page.read_text(), rows))
    for row in rows:
        print("\n" + json.dumps(row, ensure_ascii=False), end="")


def with_rows(text, rows):
    """The page with these rows, in the place of those of the same faults, the others as they were."""
    before, _, rest = text.partition(START)
    table, _, after = rest.partition(END)
    lines = [line for line in table.strip().splitlines() if line.startswith("|")]
    kept = {line.split("|")[1].strip(): line for line in lines[2:]}
    kept |= {row["fault"]: "| " + " | ".join(row.values()) + " |" for row in rows}
    head = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    return before + START + "\n\n" + "\n".join([*head, *kept.values()]) + "\n\n" + END + after
