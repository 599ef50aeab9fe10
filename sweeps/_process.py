"""What every command needs of its process: a home, output that can be printed, and commands as a user types them."""

import codecs
import io
import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["default_runs", "prepare_process", "sweeps_command", "this_python", "typed_command"]

SPELLED_OUT = {"±": "+-", "…": "...", "×": "x", "λ": "lam", "ρ": "rho", "—": "-", "–": "-"}


def prepare_process() -> None:
    """Make the process fit to import Ray and MLflow and to print results. Call it before either is imported."""
    try:
        Path.home()
    except RuntimeError:  # HOME is unset and the user has no account: container runtimes set / then
        os.environ["HOME"] = "/"
    codecs.register_error("spell_out", spell_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spell_out")


def spell_out(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace one character that the output's encoding lacks, so that no result is lost to its `±`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return SPELLED_OUT.get(character, ascii(character)[1:-1]), error.start + 1


def default_runs() -> Path:
    """A cluster sets SPARSITY_SWEEPS_RUNS to a folder that all of its nodes see."""
    return Path(os.environ.get("SPARSITY_SWEEPS_RUNS") or "runs")


def this_python() -> str:
    """How a user who has not activated the environment calls the Python that runs this."""
    if shutil.which("python") == sys.executable:
        return "python"
    here = Path(sys.executable)
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def sweeps_command(*words: str, runs: Path) -> str:
    """`python -m sweeps ...` for a shell, with --runs where that is not the default."""
    flags = [] if runs == default_runs() else ["--runs", str(runs)]
    return shlex.join([this_python(), "-m", "sweeps", *words, *flags])


def typed_command() -> list[str]:
    """The command that runs this process, its Python in full: as typed it may mean another one elsewhere."""
    return [sys.executable, *sys.orig_argv[1:]]
