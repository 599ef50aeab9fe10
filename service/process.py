"""What every command needs from its process: a home folder, printable output, and the command lines to show users."""

import codecs
import io
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["default_runs", "prepare_process", "sweeps_command", "this_python", "typed_command"]

SPELLED_OUT = {"±": "+-", "…": "...", "×": "x", "λ": "lam", "ρ": "rho", "—": "-", "–": "-"}


def prepare_process() -> None:
    """Set HOME if it is missing, and make output encodable. Call it before Ray and MLflow are imported."""
    try:
        Path.home()
    except RuntimeError:  # HOME is unset and the user has no account; container runtimes then set /
        os.environ["HOME"] = "/"
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)  # it asks every notebook to install ipywidgets
    codecs.register_error("spell_out", spell_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spell_out")


def spell_out(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that the output's encoding lacks, so that a `±` does not prevent a result from printing."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # an undecodable byte of a file name
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return SPELLED_OUT.get(character, ascii(character)[1:-1]), error.start + 1


def default_runs() -> Path:
    """The records' folder: SPARSITY_SWEEPS_RUNS, which a cluster sets to a folder that all nodes share, or `runs`."""
    return Path(os.environ.get("SPARSITY_SWEEPS_RUNS") or "runs")


def this_python() -> str:
    """The command that starts this Python: `python` if that is the one on PATH, else its path."""
    if shutil.which("python") == sys.executable:
        return "python"
    here = Path(sys.executable)
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def sweeps_command(*words: str, runs: Path) -> str:
    """`python -m sweeps ...` quoted for a shell, with --runs if `runs` is not the default."""
    flags = [] if runs == default_runs() else ["--runs", str(runs)]
    return shlex.join([this_python(), "-m", "sweeps", *words, *flags])


def typed_command() -> list[str]:
    """The command line of this process, with the full path of its Python, because `python` may differ elsewhere."""
    return [sys.executable, *sys.orig_argv[1:]]
