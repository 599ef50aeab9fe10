"""`Sweep`: the value that a file of sweeps/ makes, with what users do with it."""

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.process import prepare_process
from service.spec import SweepSpec
from sparsity_sweeps import check_working_folder

if TYPE_CHECKING:
    from service.results import Result

__all__ = ["Sweep"]


class Sweep(SweepSpec):
    """A sweep that can be run. Its fields are those of `SweepSpec`.

    Example:
        trial = TrialConfig(dataset="digits", architecture="small_resnet", max_epochs=30, target_sparsity=0.96)
        sweep = Sweep(trial=trial, search=small_cnn.SEARCH_SPACE)
        result = sweep.run()
        result.table  # a pandas DataFrame: the mean accuracy of each arm by sparsity
    """

    def run(self, command: Sequence[str] | None = None, *, quiet: bool = False) -> "Result":
        """Run the trials that are left.

        A trial that fails is recorded, and the sweep continues.

        Args:
            command: The command line to record, with which `sweeps retry` starts the sweep again.
            quiet: Whether to print only warnings and the headline.

        Returns:
            The summary, a dictionary (see `service.records.summary.summarize`), with `table`, `arms`, `trials` and
            `curves` as pandas DataFrames (see `service.Result`).

        Raises:
            ValueError: Before anything starts, one line for each fault.
            KeyboardInterrupt: After a clean stop. The next call continues.
        """
        prepare_process()
        check_working_folder()
        gc.disable()  # imported objects stay alive: searching them for garbage takes half a second
        try:
            from service.driver import run_sweep  # Ray, torch and MLflow: only a run needs them
            from service.results import Result
        finally:
            gc.enable()
        return Result(run_sweep(self, command, quiet=quiet), self.folder)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line of a sweep's file; see `service.cli`."""
        from service.cli import main  # typer: only a command line needs it

        main(self, arguments)
