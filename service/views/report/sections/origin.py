"""What failed, and how everything was made."""

import shlex

from service.views.report.blocks import Block, Code, Items, Table, Text, cells
from service.views.report.view import SweepView
from service.views.tables import left_out_line, superseded_line

__all__ = ["origin"]

NUM_SHOWN = 20


def origin(view: SweepView) -> list[Block]:
    summary, state = view.summary, view.state
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(summary["counts"].items()))
    blocks: list[Block] = [Text(f"Trials: {counts}.")]
    if summary["num_left_out"]:
        blocks.append(Text(left_out_line(summary)))
    if summary["superseded"]:
        blocks.append(Text(superseded_line(summary)))
    if failures := summary["failures"]:
        rows = [cells(f["arm"], f["trial"], f["status"].replace("_", " "), f["reason"]) for f in failures[:NUM_SHOWN]]
        more = f" The first {NUM_SHOWN} of {len(failures)}." if len(failures) > NUM_SHOWN else ""
        header = ["arm", "trial", "what happened", "why"]
        blocks.append(Table(f"Trials that did not finish.{more}", header, rows, num_labels=4))
    if warnings := summary["warnings"]:
        rows = [cells(row["arm"], row["trial"], row["warning"]) for row in warnings]
        caption = "Warnings: what makes the numbers of single trials doubtful."
        blocks.append(Table(caption, ["arm", "trial", "warning"], rows, num_labels=3, folded=len(rows) > 5))
    run = state.last_run
    if run.get("command"):
        command = f"cd {shlex.quote(run['cwd'])}\n{shlex.join(run['command'])}"
        blocks += [Text("The command of the last run:"), Code(command)]
    software = state.header.get("software", {})
    lines = [f"{name.replace('_', ' ')}: {version}" for name, version in software.items()]
    if state.header.get("data"):
        lines.append(f"fingerprint of the data: {state.header['data']}")
    if state.num_changes:
        lines.append(f"the sweep was changed {state.num_changes} times")
    return [*blocks, Text("Software and data at the sweep's start:"), Items(lines)]
