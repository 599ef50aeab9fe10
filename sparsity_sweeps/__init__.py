"""Checks of the platform and of the packages that are imported.

Other distributions (W&B's `sweeps`, PyPI's `sparsity`) install packages of the same names over ours, and a folder of
such a name can come first on sys.path. Only this distribution uses this package's name, so its checks run even if the
packages were replaced. Importing it runs the checks; a script that fails one ends with a one-line error.
"""

import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

__all__ = ["PACKAGES", "UnfitEnvironmentError", "check_working_folder"]

DISTRIBUTION = "sparsity-sweeps"
PACKAGES = ("sparsity", "trainables", "search_spaces", "service", "sweeps")
MARK = f'__distribution__ = "{DISTRIBUTION}"'  # in the __init__.py of each
TRAINED_WITH = PACKAGES[:2]  # the packages that Ray's workers import


class UnfitEnvironmentError(ImportError):
    """The project cannot run here; the message is one line that says what to do."""


def check_platform() -> None:
    """Raise UnfitEnvironmentError on platforms other than Linux on x86-64 or arm64."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise UnfitEnvironmentError(
            f"{DISTRIBUTION}: must run on Linux on x86-64 or arm64 (the only platforms that it is made for), got "
            f"{platform.system()} on {platform.machine()}: use a Linux machine or container, or WSL 2 on Windows"
        )


def check_packages() -> None:
    """Raise UnfitEnvironmentError if one of our packages is missing, overwritten or hidden by another one."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # no folder, or one without __init__.py
            raise UnfitEnvironmentError(
                f"{name}: must be the package of {DISTRIBUTION}, got none or a folder without __init__.py "
                f"(uninstalling another distribution may have deleted it): {reinstall()}"
            )
        if MARK not in Path(spec.origin).read_text(encoding="utf-8", errors="replace"):
            raise UnfitEnvironmentError(
                f"{name}: must be the package of {DISTRIBUTION}, got another one of that name in "
                f"{Path(spec.origin).parent}: {remedy(name, Path(spec.origin))}"
            )


def check_working_folder() -> None:
    """Raise ValueError if Ray's workers would import another copy of our packages than this process.

    Ray puts the working folder first on its workers' sys.path, even if it is not on the sys.path of this process.
    """
    for name in TRAINED_WITH:
        here, used = Path.cwd() / name / "__init__.py", find_spec(name)
        if used and used.origin and here.is_file() and not here.samefile(used.origin):
            raise ValueError(
                f"{name}: must be one package for the sweep and for Ray's workers (these look in the working folder "
                f"first), got {here.parent} beside {Path(used.origin).parent}: run the sweep from another folder"
            )


def remedy(name: str, found: Path) -> str:
    """What to do about a package of that name that is not ours."""
    for other in set(metadata.packages_distributions().get(name, ())) - {DISTRIBUTION}:
        if Path(str(metadata.distribution(other).locate_file(name))) == found.parent:
            return f"pip uninstall {other}, then {reinstall()}"
    if found.parents[1] == Path(__file__).parents[1]:
        return reinstall()
    return "keep it off sys.path: start in another folder, or with `sweeps` or `python -P`, and look at PYTHONPATH"


def reinstall() -> str:
    return f"install {DISTRIBUTION} again with pip's --force-reinstall --no-deps"


def show_in_one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, UnfitEnvironmentError):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


try:
    check_platform()
    check_packages()
except UnfitEnvironmentError:
    sys.excepthook = show_in_one_line  # for scripts; notebooks and pytest show an ImportError
    raise
