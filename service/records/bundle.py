"""A sweep in one archive: its records, and what is needed to train one of its trials again elsewhere."""

import io
import json
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from service.records.software import git_environment
from service.records.state import EVENTS, State
from trainables.files import write_atomically
from trainables.result import RESULT

__all__ = ["CODE_DIFF", "bundle", "save_code_diff"]

CODE_DIFF = "code.diff"
MOST_BYTES = 5_000_000  # of a diff: beyond that, data or networks have been added to the checkout

SCRIPT = """#!/usr/bin/env bash
# Train trials of the sweep {name} again, and compare their numbers with the records in this folder.
#
#     ./reproduce.sh CHECKOUT [TRIAL...]
#
# CHECKOUT is a clone of sparsity-sweeps; it is not changed. Without TRIAL, the trial of the sweep's winner is repeated.
# On the same kind of CPU the numbers are the same bit for bit; elsewhere they may differ in the last digits.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
checkout="$(cd "${{1:?usage: ./reproduce.sh CHECKOUT [TRIAL...]}}" && pwd)"
shift
if [ ! -d "$here/code" ]; then
  git clone --quiet --no-checkout "$checkout" "$here/code"
  git -C "$here/code" checkout --quiet --detach {commit}
  if [ -s "$here/{diff}" ]; then git -C "$here/code" apply --whitespace=nowarn "$here/{diff}"; fi
  cp "$here/constraints.txt" "$here/code/constraints.txt"
fi
make --quiet -C "$here/code" .venv/.installed
cd "$here"
"$here/code/.venv/bin/python" -m sweeps repeat {name} "$@" --runs "$here/runs"{data_root}
"""

README = """# {name}

Records of a sweep made with sparsity-sweeps {version}, commit {commit}.

- `runs/{name}/events.jsonl`: every trial with its configuration and numbers, for `sweeps report {name} --runs runs`.
- `runs/{name}/trials/TRIAL/result.json`: what each trial left, with statistics of its layers.
- `constraints.txt`: the version of every installed package. `{diff}`: changes to the code since that commit, if any.
- `data.json`: which data it used, with their fingerprint. The data are not included.
- `reproduce.sh CHECKOUT`: trains a trial again from these files, and compares.
"""


def save_code_diff(folder: Path) -> None:
    """Keep the changes to the code since its commit, so that a later bundle has the code that ran."""
    if (folder / CODE_DIFF).exists():  # of the sweep's start, as its commit is
        return
    command = ["git", "-C", str(Path(__file__).parent), "diff", "--no-ext-diff", "--no-color", "--binary", "HEAD"]
    command += ["--", ":/"]
    try:
        diff = subprocess.run(command, capture_output=True, env=git_environment()).stdout
    except OSError:  # git is not installed
        return
    if 0 < len(diff) < MOST_BYTES:
        write_atomically(folder / CODE_DIFF, lambda path: path.write_bytes(diff))


def bundle(state: State, path: Path) -> int:
    """Write the archive.

    Args:
        state: The sweep's records.
        path: The file, a gzipped tar archive.

    Returns:
        The number of files in it.

    Raises:
        ValueError: If the sweep has not begun.
    """
    if not state.header:
        raise ValueError(f"bundle: {state.folder.name} must have begun, got empty records")
    files = dict(contents(state))
    top = f"{state.folder.name}-bundle"

    def write(partial: Path) -> None:
        with tarfile.open(partial, "w:gz") as archive:
            for name, content in sorted(files.items()):
                entry = tarfile.TarInfo(f"{top}/{name}")
                entry.size, entry.mode = len(content), 0o755 if name.endswith(".sh") else 0o644
                archive.addfile(entry, io.BytesIO(content))

    write_atomically(path, write)
    return len(files)


def contents(state: State) -> Iterator[tuple[str, bytes]]:
    """The files by name."""
    folder, name = state.folder, state.folder.name
    software: dict[str, str] = state.header["software"]
    commit = software["git_commit"].removesuffix("-dirty")
    if commit.startswith("none"):  # an installed package
        commit = f"v{software['sparsity-sweeps']}"
    words = {"name": shlex.quote(name), "commit": commit, "version": software["sparsity-sweeps"], "diff": CODE_DIFF}
    root = state.last_run.get("data_root")
    words["data_root"] = ' --data-root "${DATA_ROOT:?folder of the data, see data.json}"' if root else ""
    yield "reproduce.sh", SCRIPT.format(**words).encode()
    yield "README.md", README.format(**words).encode()
    yield "constraints.txt", "".join(sorted(installed(software))).encode()
    yield "data.json", as_bytes(data_of(state))
    yield "software.json", as_bytes(software)
    if (folder / CODE_DIFF).exists():
        yield CODE_DIFF, (folder / CODE_DIFF).read_bytes()
    yield f"runs/{name}/{EVENTS}", (folder / EVENTS).read_bytes()
    for path in sorted((folder / "code").rglob("*")):  # the copies of a user's own code
        if path.is_file():
            yield f"runs/{name}/{path.relative_to(folder)}", path.read_bytes()
    for key in state.trials:
        if (result := state.trial_folder(key) / RESULT).exists():
            yield f"runs/{name}/trials/{key}/{RESULT}", result.read_bytes()


def installed(software: dict[str, str]) -> Iterator[str]:
    """Lines for constraints.txt: the packages of this environment, those of the sweep's start where they are known."""
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name.lower() != "sparsity-sweeps":
            yield f"{name}=={software.get(name, distribution.version)}\n"


def data_of(state: State) -> dict[str, Any]:
    trial = state.identity["trial"]
    fields = {name: trial[name] for name in ("task", "dataset", "data", "train_size", "eval_size")}
    return {**fields, "fingerprint": state.header["data"], "data_root": state.last_run.get("data_root")}


def as_bytes(values: Any) -> bytes:
    return json.dumps(values, indent=2).encode()
