"""Small sweeps on digits, disturbed: by `make test-faults`, as they take minutes each."""

import textwrap

import pytest

from tests._digits import LONGER, REPOSITORY, environment, run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a sweep that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run(runs)
    return runs


@pytest.fixture(scope="session")
def undisturbed_longer(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed-longer")
    run(runs, *LONGER)
    return runs


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def with_fault(tmp_path):
    """A function: the environment of a sweep in whose processes `code` runs once trainables.loop is imported."""

    def make(code, **more):
        hook = '''
            import importlib.util, sys

            class Finder:
                """Runs the fault's code behind the module's own."""

                def find_spec(self, name, path=None, target=None):
                    if name != "trainables.loop":
                        return None
                    sys.meta_path.remove(self)
                    spec = importlib.util.find_spec(name)
                    execute = spec.loader.exec_module
                    spec.loader.exec_module = lambda module: (execute(module), exec(FAULT, vars(module)))
                    return spec

            sys.meta_path.insert(0, Finder())
        '''
        folder = tmp_path / "fault"
        folder.mkdir(exist_ok=True)
        text = f"FAULT = {textwrap.dedent(code)!r}\n" + textwrap.dedent(hook)
        (folder / "sitecustomize.py").write_text(text)
        return environment(PYTHONPATH=f"{folder}:{REPOSITORY}", **more)

    return make
