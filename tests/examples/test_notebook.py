"""A sweep of objects in a notebook: Jupyter's own client runs it, and its outputs are looked at."""

import pytest

pytestmark = [pytest.mark.extras, pytest.mark.sweep]
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

MINE = """
import torch
from torch import nn
from sparsity.ranges import Range
from sparsity.regularizer import Regularizer

def build(num_classes, in_channels, width=8):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 36, num_classes),
    )

class SquaredL1(Regularizer):
    lam_range = Range(1e-6, 1e-4, 1e-5)

    def penalty(self, weight):
        return weight.abs().sum() ** 2
"""
DEFINE = """
import mine
from search_spaces import small_cnn
from service import Sweep
from trainables.config import TrialConfig

sweep = Sweep(
    name="notebook", runs="runs",
    trial=TrialConfig(
        dataset="digits", architecture=mine.build, max_epochs=1, batch_size=64, opt={"lr": 0.1}, target_sparsity=0.9,
    ),
    search=small_cnn.SEARCH_SPACE, optimizer="sgd", regularizer=("none", mine.SquaredL1), num_trials=1, num_confirm=0,
)
"""
CELLS = [DEFINE, "result = sweep.run()", "result", "result.table.shape", "list(result.trials['status'])"]
IN_A_CELL = "def build(num_classes, in_channels): ...\nTrialConfig(architecture=build, dataset='digits')"


def test_a_sweep_in_a_notebook(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (*CELLS, IN_A_CELL)])
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}, allow_errors=True
    )
    client.execute()
    _, run, shown, shape, status, in_a_cell = (cell.outputs for cell in notebook.cells)
    assert {(output.output_type, output.get("name")) for output in run} == {("stream", "stdout")}, run
    printed = "".join(output.text for output in run)
    assert "\x1b" not in printed
    assert "arms (an optimizer with a regularizer): sgd + none, sgd + " in printed
    assert "notebook   2/2" in printed
    assert "Best: sgd" in shown[0].data["text/html"]
    assert shape[0].data["text/plain"] == "(2, 2)"
    assert status[0].data["text/plain"] == "['finished', 'finished']"
    assert "architecture: build must be in a file of its own" in in_a_cell[0].evalue
