"""How much was trained."""

from service.views.durations import in_hours
from service.views.report.blocks import Block, Table, cells
from service.views.report.view import SweepView

__all__ = ["cost"]


def cost(view: SweepView) -> list[Block]:
    rows = []
    trials = [trial for trial in view.state.trials.values() if trial.done]
    phases = {"search": "search", "confirm": "confirmation", "": "in total"}
    for phase, name in phases.items():
        found = [trial for trial in trials if phase in ("", trial.phase)]
        if found:
            epochs = sum(trial.report.get("epoch") or 0 for trial in found)
            seconds = sum(trial.report.get("seconds") or 0.0 for trial in found)
            rows.append(cells(name, f"{len(found)}", f"{epochs:,}", in_hours(seconds), in_hours(seconds / len(found))))
    header = ["phase", "trials", "epochs", "time of all trials", "mean time of a trial"]
    caption = (
        "What was computed. The time of a trial is from its start to its end, so trials that ran at once count several "
        "times."
    )
    return [Table(caption, header, rows)]
