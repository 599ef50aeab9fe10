"""Terminals, pipes and encodings that a sweep prints to."""

from tests._digits import environment


def test_the_c_locale_and_a_pipe(sweep, environment_row):
    """Python itself takes UTF-8 there."""
    done = sweep(env=environment(LANG="C", LC_ALL=None, PYTHONIOENCODING=None))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Best: sgd" in done.stdout
    environment_row("LANG=C, output to a pipe", "a sweep runs")
