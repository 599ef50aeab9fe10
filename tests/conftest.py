"""What the tests of faults and of environments report: each a row of its table in docs/reliability.md."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

# Ray gives its workers a low priority. Beside other tests, a sweep would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")


@dataclass(frozen=True)
class Table:
    """A table between two comments of a page; the first column names the row."""

    columns: tuple[str, ...]
    start: str
    end: str

    def with_rows(self, text, rows):
        """The page with these rows in place of the rows of the same name. The other rows stay as they are."""
        before, _, rest = text.partition(self.start)
        table, _, after = rest.partition(self.end)
        lines = [line for line in table.strip().splitlines() if line.startswith("|")]
        kept = {line.split("|")[1].strip(): line for line in lines[2:]}
        kept |= {row[0]: f"| {' | '.join(row)} |" for row in rows}
        head = [f"| {' | '.join(self.columns)} |", f"| {' | '.join('---' for _ in self.columns)} |"]
        return before + self.start + "\n\n" + "\n".join([*head, *kept.values()]) + "\n\n" + self.end + after


FAULTS = Table(
    columns=("fault", "lost", "computed again", "recovery"),
    start="<!-- faults: written by make test-faults -->",
    end="<!-- faults end -->",
)
ENVIRONMENTS = Table(
    columns=("environment", "what happens"),
    start="<!-- environments: written by make test-environments -->",
    end="<!-- environments end -->",
)
ROWS, PASSED = pytest.StashKey[dict[Table, list[tuple[str, ...]]]](), pytest.StashKey[bool]()


def pytest_addoption(parser):
    parser.addoption("--table", type=Path, help="page whose tables get the rows of fault_row and environment_row")


def pytest_collection_modifyitems(items):
    """Whole sweeps come first, so that no process runs them alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("sweep") is None)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Ctrl-C is a signal to these processes, also where a shell started them in the background and had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fault_row(request):
    """A function: fault, lost, computed_again, how_it_goes_on, all text. A row is kept only if its test passes."""
    yield from rows_of(request, FAULTS)


@pytest.fixture
def environment_row(request):
    """A function: environment, what_happens, both text. A row is kept only if its test passes."""
    yield from rows_of(request, ENVIRONMENTS)


def rows_of(request, table):
    rows = []

    def add(*texts):
        assert len(texts) == len(table.columns)
        rows.append(texts)

    yield add
    if request.node.stash.get(PASSED, False):
        request.config.stash.setdefault(ROWS, {}).setdefault(table, []).extend(rows)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_sessionfinish(session):
    page = session.config.getoption("--table")
    for table, rows in session.config.stash.get(ROWS, {}).items():
        if page is not None:
            page.write_text(table.with_rows(page.read_text(), rows))
        for row in rows:
            print("\n" + json.dumps(dict(zip(table.columns, row, strict=True)), ensure_ascii=False), end="")
