import pytest
from typer.testing import CliRunner

from service.commands import app


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "sweep: must be one of toy"),
        (["toy", "--criterion", "wanda2"], "criterion: must be one of compensation, "),
        (["toy", "--scope", "rows"], "scope: must be one of global, uniform, row, n:m with 1 <= n <= m"),
        (["toy", "--sparsity", "1.5"], "sparsity: must be in [0, 1) (the fraction of weights removed), got 1.5"),
        (["toy", "--crit", "num_probes"], "crit: must be KEY=VALUE"),
        (["toy", "--crit", "num_probes=3"], "crit: arguments must be among those of the criterion (magnitude: (none))"),
        (["toy", "--recalibrate", "--criterion", "compensation"], "recalibrate: must be off with compensation"),
        (["toy", "--arm", "sam"], "arm: must be one of (none), got 'sam'"),
        (["toy", "--keep", "some"], "keep: must be 'target', 'all', 'pruned' or 'none', got 'some'"),
    ],
)
def test_reprune_refuses_bad_input_before_anything_starts(toy, options, message):
    toy.recorder.close()
    before = toy.recorder.log.path.read_bytes()
    done = CliRunner().invoke(app, ["reprune", *options, "--runs", str(toy.folder.parent)])
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert toy.recorder.log.path.read_bytes() == before
