import json

from benchmarks._result_table import export
from benchmarks.digits_grid import LABELS, jobs, make_arm
from sweeps.digits import SWEEP
from tests.service.conftest import toy

__all__ = ["export_grid", "toy", "write_lines"]


def export_grid(lines, table):
    return export(lines, table, LABELS, SWEEP.trial.levels)


def write_lines(path, parts, *, accuracy=lambda labels: 0.5 + labels["seed"] / 100, skipped=(), diverged=()):
    """Lines of `benchmarks.digits_grid`: one for each job of the (arm, epochs, seed) in `parts`.

    accuracy: A job's labels -> its validation accuracy at 0.96. At 0.98 it is half of it.
    skipped, diverged: Names of jobs without a line, and of those that diverged.
    """
    entries = []
    for choices, epochs, seed in parts:
        for job in jobs(make_arm(*choices), epochs, seed):
            if job.name in skipped:
                continue
            others, value = dict.fromkeys(("0", "0.9", "0.94"), 0.1), accuracy(job.labels)
            validation, test = {**others, "0.96": value, "0.98": value / 2}, {**others, "0.96": 0.1, "0.98": 0.1}
            result = {"validation": validation, "test": test}
            result = {"diverged": "at step 3"} if job.name in diverged else result
            entries.append({"event": "job", "time": 0.0, "job": job.name, **job.labels, **result, "cpu_s": 1.5})
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
