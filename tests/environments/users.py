"""Users whom the machine does not know, and homes that cannot be written."""

import pytest

from tests._digits import environment, events

NO_TOKEN = {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": None, "RAY_ADDRESS": None}
NO_CACHE = {"XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "MPLCONFIGDIR": None, "HF_HOME": None}


@pytest.mark.parametrize(
    ("home", "name"), [("/", "HOME=/"), ("/nonexistent", "HOME=/nonexistent"), (None, "HOME unset")]
)
def test_a_user_without_an_account(sweep, runs, as_user, environment_row, home, name):
    """Kubernetes and OpenShift start containers with HOME=/."""
    done = sweep(under=as_user(4242), env=environment(HOME=home, **NO_TOKEN, **NO_CACHE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Best: sgd" in done.stdout
    assert events(runs)["end"] == 2
    environment_row(
        f"a user id without an account, {name}",
        "a sweep runs; Ray's token lies in a private temporary folder",
    )


def test_a_home_that_cannot_be_written(sweep, runs, tmpfs, environment_row):
    """Even for root, who may write everywhere else."""
    home = tmpfs("1m", "ro")
    done = sweep(env=environment(HOME=str(home), **NO_TOKEN, **NO_CACHE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert events(runs)["end"] == 2
    environment_row("a read-only home", "a sweep runs; Ray's token lies in a private temporary folder")
