"""The tables of docs/performance.md and docs/search-strategies.md, made from the records of the benchmarks.

The pages are written by hand, except for the tables: each stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks._measure import RESULTS
from service.views.costs import cost_table

__all__ = ["TABLES", "fill"]

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
MARKED = re.compile(r"(<!-- table: ([^\n]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def fill(page: str, record: Mapping[str, Any]) -> str:
    """Replace the tables of a page by those of a record.

    A table whose benchmark is not in the record stays as it is.

    Args:
        page: Markdown with markers around each table.
        record: What `python -m benchmarks` writes: date, device, torch and results.

    Raises:
        ValueError: If the page names an unknown table, or a table has no end.
    """

    def replace(found: re.Match) -> str:
        start, name, old, end = found.groups()
        if name not in TABLES:
            raise ValueError(f"page: a table's name must be one of {', '.join(TABLES)}, got {name!r}")
        return f"{start}\n{made}\n{end}" if (made := TABLES[name](record)) else start + old + end

    num_starts, num_tables = page.count("<!-- table:"), len(MARKED.findall(page))
    if num_starts != num_tables:
        raise ValueError(
            f"page: each of its {num_starts} tables must have an <!-- end --> before the next table, got {num_tables}"
        )
    return MARKED.sub(replace, page)


# ---- one function per table: "" if the record lacks it --------------------------------------------------------------


def penalties(record: Mapping[str, Any]) -> str:
    rows = []
    for key, variants in record["results"].items():
        if found := re.fullmatch(r"penalties/(\w+), (\d+) thread\(s\)", key):
            plain, ours, copy = (variants[name]["median_s"] for name in ("plain autograd", "R.backward(lam)", "copy"))
            times = (f"{1000 * plain:.1f}", f"{1000 * ours:.1f}", f"{plain / ours:.1f}", f"{ours / copy:.1f}")
            rows.append((found[1], found[2], *times))
    head = ("penalty", "threads", "plain autograd, ms", "`R.backward(lam)`, ms", "times faster", "in copies")
    return measured(record, head, sorted(rows))


def steps(record: Mapping[str, Any]) -> str:
    sizes = [key.removeprefix("steps/batch ") for key in record["results"] if key.startswith("steps/batch ")]
    sizes.sort(key=int, reverse=True)
    by_size = [record["results"][f"steps/batch {size}"] for size in sizes]
    rows = [
        (name, goal, *(f"{steps[name]['ratio']:.3f} ({steps[name]['min_ratio']:.3f})" for steps in by_size))
        for name, goal in (("sgd + wcr", "1.02"), ("s2sam", "1.03"), ("sam", "2.03"), ("cram", "2.10"))
        if all(name in steps for steps in by_size)
    ]
    return measured(record, ("step", "goal", *(f"batch {size}" for size in sizes)), rows if by_size else [])


def perturbations(record: Mapping[str, Any]) -> str:
    rows = [(name, milliseconds(row)) for name, row in record["results"].get("perturbations/ResNet-18", {}).items()]
    return measured(record, ("optimizer", "CPU ms"), rows)


def layouts(record: Mapping[str, Any]) -> str:
    found = record["results"].get("layouts/ResNet-18, batch 128", {})
    rows = [(LAYOUTS.get(name, name), f"{row['median_s']:.2f}", f"{row['ratio']:.2f}") for name, row in found.items()]
    return measured(record, ("a step of ResNet-18, batch 128", "CPU s", "ratio"), rows)


LAYOUTS = {"as it is": "PyTorch's default"}


def shrinking(record: Mapping[str, Any]) -> str:
    rows = []
    for key, title in (
        ("shrunk_digits/0.96", "digits at 0.96"),
        ("shrunk_resnet18/structured masks", "ResNet-18, 32x32"),
    ):
        for name, row in record["results"].get(key, {}).items():
            left = (
                f"{row[field]:.3f}"
                for field in ("macs_left", "parameters_left", "macs_left_by_8", "macs_left_tolerance")
            )
            accuracy = f"{row['acc']:.3f}" if "acc" in row else "-"
            rows.append((f"{title}: {name}", accuracy, *left, f"{row['difference']:.0e}", f"{row['cpu_s']:.2f}"))
    head = ("network", "accuracy", "MACs left", "parameters left", "by multiples of 8", "with tolerance")
    return measured(record, (*head, "largest difference", "CPU s"), rows)


def small_costs(record: Mapping[str, Any]) -> str:
    results, rows = record["results"], []
    if masks := results.get("mask_levels/ten levels"):
        value = f"{1 / masks['ours']['ratio']:.0f} times faster than torch.nn.utils.prune ten times"
        rows.append(("masks at 10 sparsities from one sort", "8 times faster", value))
    if shares := results.get("evaluations/evaluations"):
        value = "; ".join(f"{row['share']:.1%} ({name})" for name, row in shares.items())
        rows.append(("share of a trial's time spent on pruned evaluations", "under 5%", value))
    if memory := results.get("memory/memory"):
        few, every = memory["a tenth"], memory["all"]
        own, data = (every[key] - few[key] for key in ("private_MB", "data_MB"))
        value = f"{own:.0f} MB for {data:.0f} MB more data"
        rows.append(("growth of a trial's own memory with the dataset, which trials share", "none", value))
    if own := results.get("sweeps/sweeps", {}).get("the sweep"):
        rows.append(("speed of a sweep after start-up", "0.95 of the ideal", f"{own['of_ideal_after_start']:.2f}"))
    if start := results.get("start/start"):
        value = f"{start['--help']['median_s']:.2f} s, {start['--help']['cpu_s']:.2f} CPU s"
        rows.append(("`python sweeps/digits.py --help`", "under 1 s", value))
    return measured(record, ("what", "goal", "measured"), rows)


def sweeps(record: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            str(row["num_trials"]),
            *(f"{row[key] / row['num_trials']:.1f}" for key in ("wall_s", "cpu_s")),
            f"{row['wall_ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
        )
        for name, row in record["results"].get("sweeps/sweeps", {}).items()
    ]
    return measured(record, ("contender", "trials", "s per trial", "CPU s per trial", "ratio", "CPU ratio"), rows)


def searches(record: Mapping[str, Any]) -> str:
    """The last run of `python -m benchmarks.searches`."""
    last = last_record("*-searches.json")
    if last is None:
        return ""
    names = next(iter(last["results"].values()))
    rows = [
        (case, *(f"{row['busy']:.2f}, {row['best']:.3f} ± {row['best_error']:.3f}" for row in measured.values()))
        for case, measured in last["results"].items()
    ]
    return measured(last, ("pending proposals", *(PENDING.get(name, name) for name in names)), rows)


PENDING = {"the rule": "1.5 per worker", "none ahead": "1 per worker", "twice the rule": "3 per worker"}


def strategies(record: Mapping[str, Any]) -> str:
    """The last run of `python -m benchmarks.strategies`, averaged over arms."""
    last = last_record("*-strategies.json")
    if last is None:
        return "The strategies have not been compared yet.\n"
    head = ["strategy", *(f"{budget} epochs" for budget in last["budgets"])]
    head += [f"{budget // 3} against TPE's {budget}" for budget in last["thirds"]]

    def rows(case: Mapping[str, Any]) -> Iterable[Sequence[str]]:
        for name, by_arm in case["results"].items():
            if row := by_arm.get("all arms"):
                thirds = [f"{mean:+.4f} ± {error:.4f}{verdict((mean, error))}" for mean, error in row["third"]]
                yield (name, *(regret(row, index) for index in range(len(last["budgets"]))), *thirds)

    seeds = "".join(f"- {line}\n" for line in last["coverage"])
    figure = "![regret against epochs](strategies.png)\n"
    return f"{by_case(last, lambda _: head, rows)}\nComplete parts of the grid:\n\n{seeds}\n{figure}"


def strategies_by_arm(record: Mapping[str, Any]) -> str:
    """Of the same run, each arm with the largest budget and a third of it."""
    last = last_record("*-strategies.json")
    if last is None:
        return ""

    def cells(case: Mapping[str, Any]) -> list[tuple[int, str]]:
        arms = [arm for arm in next(iter(case["results"].values())) if arm != "all arms"]
        return list(itertools.product((last["thirds"][-1] // 3, last["thirds"][-1]), arms))

    def rows(case: Mapping[str, Any]) -> Iterable[Sequence[str]]:
        for name, by_arm in case["results"].items():
            found = (regret(by_arm[a], last["budgets"].index(b)) if a in by_arm else "-" for b, a in cells(case))
            yield (name, *found)

    return by_case(last, lambda case: ["strategy", *(f"{arm}, {budget}" for budget, arm in cells(case))], rows)


def warm_starts(record: Mapping[str, Any]) -> str:
    """The last run of `python -m benchmarks.warm_starts`."""
    last = last_record("*-warm-starts.json")
    if last is None:
        return "Not measured yet.\n"
    head = ["arm and source", "search", *(f"regret after {n}" for n in last["shown"]), "until close to the best"]
    rows = []
    for title, case in last["cases"].items():
        for kind, row in case.items():
            cells = (f"{mean:.4f} ± {error:.4f}" for mean, error in row["regret"])
            (until, error), (more, more_error) = row["num_until"], row["more"]
            change = "" if kind == "cold" else f" ({more:+.1f} ± {more_error:.1f})"
            rows.append((title, kind, *cells, f"{until:.1f} ± {error:.1f}{change}"))
    return measured(last, head, rows)


def by_case(
    last: Mapping[str, Any],
    head: Callable[[Mapping[str, Any]], Sequence[str]],
    rows: Callable[[Mapping[str, Any]], Iterable[Sequence[str]]],
) -> str:
    """A table for each case of the comparison, below the case's name."""
    return "\n".join(f"**{name}**\n\n{measured(last, head(case), rows(case))}" for name, case in last["cases"].items())


def regret(row: Mapping[str, Any], index: int) -> str:
    mean, error = row["regret"][index]
    return f"{mean:.4f} ± {error:.4f}{verdict(row['difference'][index])}"


def short_schedules(record: Mapping[str, Any]) -> str:
    """Of the same run, what shorter schedules say about the full one."""
    last = last_record("*-strategies.json")
    if last is None:
        return ""

    def rows(case: Mapping[str, Any]) -> Iterable[Sequence[str]]:
        for arm, found in case["short_schedules"].items():
            for row in found:
                numbers = (f"{row[how][what]:.3f}" for how in ("same", "scaled") for what in WHAT)
                yield (arm, str(row["epochs"]), *numbers)

    head = ("arm", "epochs", "rank correlation", "regret of the best", "rank correlation, scaled", "regret, scaled")
    return by_case(last, lambda _: head, rows)


WHAT = ("correlation", "regret")


def verdict(difference: Sequence[float]) -> str:
    """The mark of a difference of regrets that is more than two standard errors from 0; "" for the others."""
    mean, error = difference
    return " (better)" if mean < -2 * error else " (worse)" if mean > 2 * error else ""


def driver(record: Mapping[str, Any]) -> str:
    rows = [
        (name, *(f"{row[key]:.1f}" for key in ("ms", "first_quarter_ms", "last_quarter_ms")), f"{row['summary_s']:.2f}")
        for name, row in record["results"].get("driver/driver", {}).items()
    ]
    return measured(record, ("sweep", "CPU ms per trial", "first quarter", "last quarter", "summary, s"), rows)


def reprune(record: Mapping[str, Any]) -> str:
    found = record["results"].get("reprune/digits", {})
    rows = [(name, f"{row['cpu_s']:.2f}", f"{row['ratio']:.3f}") for name, row in found.items()]
    return measured(record, ("digits trial", "CPU s", "relative to training"), rows)


def commands(record: Mapping[str, Any]) -> str:
    found = record["results"].get("commands/commands", {})
    rows = [(f"`sweeps {n}`", f"{r['wall_s']:.1f}", f"{r['cpu_s']:.1f}") for n, r in found.items() if "wall_s" in r]
    return measured(record, ("command", "s", "CPU s"), rows)


def exports(record: Mapping[str, Any]) -> str:
    tables = []
    for key, found in record["results"].items():
        if key.startswith("exports/"):
            header, rows = cost_table([{"network": name, **row} for name, row in found.items()])
            tables.append(f"**{key.removeprefix('exports/')}**\n\n{measured(record, header, rows)}")
    return "\n".join(tables)


def gpu(record: Mapping[str, Any]) -> str:
    """The last run of `python -m benchmarks.gpu`."""
    last = last_record("*-gpu.json")
    return f"Last run: {where(last)}\n" if last else "These measurements have not been run on a GPU yet.\n"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "penalties": penalties,
    "steps": steps,
    "perturbations": perturbations,
    "layouts": layouts,
    "small costs": small_costs,
    "sweeps": sweeps,
    "searches": searches,
    "strategies": strategies,
    "strategies by arm": strategies_by_arm,
    "short schedules": short_schedules,
    "warm starts": warm_starts,
    "driver": driver,
    "commands": commands,
    "reprune": reprune,
    "exports": exports,
    "shrinking": shrinking,
    "gpu": gpu,
}


def measured(record: Mapping[str, Any], head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its date and machine below, "" without rows."""
    table = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in table) + f"\n{where(record)}\n" if table[2:] else ""


def where(record: Mapping[str, Any]) -> str:
    versions = [f"torch {record['torch']}"] if "torch" in record else []
    return ", ".join([record["date"], *([record["device"]] if "device" in record else []), *versions]) + "."


def milliseconds(row: Mapping[str, Any]) -> str:
    return f"{1000 * row['min_s']:.1f}"


def last_record(pattern: str) -> dict[str, Any] | None:
    files = sorted(RESULTS.glob(pattern))
    return json.loads(files[-1].read_text()) if files else None
