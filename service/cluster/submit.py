"""A sweep's file and its arguments, as `ray submit` gets them unbroken to the head of a cluster."""

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["submit", "submit_command"]


def submit_command(cluster: Path, sweep: str, arguments: Sequence[str], *, tmux: bool = False) -> list[str]:
    """The `ray submit` that runs `sweep`, a name as cifar10 or a file, with `arguments` on the head of `cluster`.

    Ray joins the arguments with spaces and hands them to a shell of the head, which would split them and execute what
    is in them: they are quoted for it here. ValueError if there is no such file, or an argument no shell can take.
    """
    if not cluster.is_file():
        raise ValueError(
            f"cluster: must be a cluster file, e.g. cluster.yaml, got {str(cluster)!r}, which is not there"
        )
    if unfit := [argument for argument in arguments if "\0" in argument]:
        raise ValueError(f"arguments: must be without NUL characters (no program can be given one), got {unfit[0]!r}")
    script = sweep_file(sweep)
    if shlex.quote(script.name) != script.name:
        raise ValueError(f"sweep: must be a file with a plain name (Ray does not quote it), got {script.name!r}")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "submit", *(["--tmux"] if tmux else []), str(cluster)]
    return [*ray, str(script), "--", *map(shlex.quote, arguments)]


def sweep_file(sweep: str) -> Path:
    if sweep.endswith(".py") and Path(sweep).is_file():
        return Path(sweep)
    spec = find_spec("sweeps")  # files, not imports: the sweeps are above this package
    folders = spec.submodule_search_locations or [] if spec else []
    sweeps = {path.stem: path for folder in folders for path in sorted(Path(folder).glob("[!_]*.py"))}
    if sweep not in sweeps:
        raise ValueError(f"sweep: must be a file, or one of {', '.join(sweeps)}, got {sweep!r}")
    return sweeps[sweep]


def submit(cluster: Path, sweep: str, arguments: Sequence[str], *, tmux: bool = False) -> None:
    """Become that `ray submit`; does not return."""
    command = submit_command(cluster, sweep, arguments, tmux=tmux)
    sys.stdout.flush()
    os.execv(command[0], command)
