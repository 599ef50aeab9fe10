"""README, CONTRIBUTING and docs/: examples run, commands have the options that they name, links lead somewhere."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands import app
from tests._pages import blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])

# ---- Python examples ---------------------------------------------------------------------------------------------

EXAMPLES = [
    pytest.param(marker, code, id=f"{path.name}-{i}")
    for path in PAGES
    for i, (kind, marker, code) in enumerate(blocks(path.read_text()))
    if kind == "python" and not marker.startswith("file: ")  # tests/test_contributing.py runs those
]


@pytest.mark.parametrize(("marker", "code"), EXAMPLES)
def test_an_example_runs_or_at_least_its_imports_do(marker, code):
    """`<!-- test: run -->` before a block runs it; `<!-- test: compile -->` is for examples that take long."""
    assert marker in ("test: run", "test: compile")
    tree = ast.parse(code)
    if marker == "test: compile":
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES[2:], ids=[path.name for path in PAGES[2:]])
def test_an_example_from_a_file_is_that_file(page):
    for _, marker, code in blocks(page.read_text()):
        if marker.startswith("file: examples/"):
            assert code == (ROOT / marker.removeprefix("file: ")).read_text(), f"{page.name}: {marker}"


def test_every_example_is_on_a_page():
    shown = {marker for page in PAGES for _, marker, _ in blocks(page.read_text())}
    assert {f"file: examples/{file.name}" for file in (ROOT / "examples").glob("*.py")} <= shown


# ---- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sweep_options():
    command = [sys.executable, "sweeps/digits.py", "--help"]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return options_in(done.stdout)


@pytest.fixture(scope="session")
def command_options():
    """Name of a command -> its options; "" -> those of `sweeps` itself."""
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    helps = {name: CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output for name in names}
    return {name: options_in(text) for name, text in {"": result.output, **helps}.items()}


def passing_on():
    """The commands whose further options are those of a sweep."""
    return {c.name for c in app.registered_commands if (c.context_settings or {}).get("allow_extra_args")}


def options_in(text):
    return set(re.findall(r"--[a-z][a-z-]*", text))


def commands(text):
    """The commands of a page's indented blocks, as lists of words; continued lines are joined."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    indented = [line.partition("   #")[0] for line in lines if line.startswith("    ") and "'" not in line]
    return [shlex.split(line, comments=True) for line in indented]


@pages
def test_commands_have_the_options_that_they_are_given(page, sweep_options, command_options):
    for words in commands(page.read_text()):
        line = " ".join(words)
        if sweep := re.match(r"python (?:-P )?(?:sweeps/|-m sweeps\.)(\w+)", line):
            known = sweep_options
            made_here = f"sweeps/{sweep[1]}.py" in (ROOT / "CONTRIBUTING.md").read_text()
            assert made_here or (ROOT / "sweeps" / f"{sweep[1]}.py").exists(), line
        elif command := re.match(r"(?:python -m )?sweeps(?: ([a-z]+))?(?= |$)", line):
            known = command_options[command[1] or ""]
            if "--" in words or command[1] in passing_on():  # the others are for the sweep
                known = known | sweep_options
        else:
            continue
        assert options_in(line) <= known, f"{page.name}: {line}"


@pages
def test_options_in_the_text_exist(page, sweep_options, command_options):
    known = sweep_options.union(*command_options.values())
    named = {found[1] for found in re.finditer(r"`(--[a-z][a-z-]*)", page.read_text())}
    assert named <= known


# ---- links and generated pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_of_the_root_s_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages_lead_to_a_heading(page):
    """As MkDocs names the headings; `make docs` also checks links to the generated pages of the API."""
    for target, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)#([^)]+)\)", page.read_text()):
        linked = page.parent / target if target else page
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE) if linked.suffix == ".md" else []
        slugs = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings]
        assert anchor in slugs or "api/" in target, f"{target}#{anchor}"


def test_the_page_of_methods_is_what_the_docstrings_say():
    """`python docs/make_methods.py` brings it up to date; a method without a cost has no place in it."""
    page = runpy.run_path(str(DOCS / "make_methods.py"))["page"]()
    assert page == (DOCS / "methods.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("| - |")]
