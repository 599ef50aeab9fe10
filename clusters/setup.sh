#!/usr/bin/env bash
# Makes a node ready for trials: the shared folder, the project with all it needs, and the environment of its shells.
# A cluster file runs it on every node, and again at each `ray up`: what is done already is left alone.
#
# Settings, which the cluster file leaves in ~/.sparsity-sweeps:
#   SHARED  folder that all nodes see and may write: records and checkpoints lie in SHARED/runs
#   NFS     server:/export to mount there, where it is not mounted by other means
#   VENV    virtual environment to use or to make (~/.venv-sparsity-sweeps)
set -euo pipefail
. ~/sparsity-sweeps/clusters/environment.sh
project=~/sparsity-sweeps

fail() {
  echo "setup of $(hostname): $*" >&2
  exit 1
}

if [[ -n ${NFS:-} ]] && ! mountpoint -q "$SHARED"; then
  command -v mount.nfs4 >/dev/null || { sudo apt-get update -q && sudo apt-get install -y -q nfs-common; }
  sudo mkdir -p "$SHARED"
  # lookupcache=positive: a file that another node has just written is seen at once, and not after a minute.
  sudo mount -t nfs4 -o nfsvers=4.1,hard,timeo=600,retrans=2,noresvport,lookupcache=positive "$NFS" "$SHARED"
  mkdir -p "$SHARED/runs" 2>/dev/null || sudo install -d -o "$(id -un)" "$SHARED/runs"
fi
[[ -d $SHARED ]] || fail "SHARED must be a folder that all nodes see, $SHARED is not there"
mkdir -p "$SHARED/runs" && [[ -w $SHARED/runs ]] || fail "SHARED must be a folder that may be written, got $SHARED"

if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
  python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "python3 must be 3.11 to 3.13, is $(python3 --version 2>&1)"
  python3 -m venv "$VENV" || { sudo apt-get update -q && sudo apt-get install -y -q python3-venv && python3 -m venv "$VENV"; }
fi
# What is installed already is not looked for again: then these need no network.
"$VENV/bin/python" -c 'import uv, setuptools' 2>/dev/null ||
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$project/constraints.txt" uv setuptools
install=("$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --constraint "$project/constraints.txt")
"$VENV/bin/python" - "$project/pyproject.toml" <<'END' | "${install[@]}" --requirements -
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["cluster"], sep="\n")
END
"${install[@]}" --no-deps --no-build-isolation --editable "$project"

grep -qs sparsity-sweeps/clusters/environment.sh ~/.bashrc ||
  echo '. ~/sparsity-sweeps/clusters/environment.sh' >>~/.bashrc
