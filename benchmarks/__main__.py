"""Run the benchmarks, print their ratios, and record them in benchmarks/results/ with date and device.

--write FILE also replaces the tables of a page (docs/performance.md) by the new ones. --only GROUP runs one group; its
numbers join those that were recorded on the same day.
"""

import argparse
import json
import time
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import driver, exporting, methods, pruning, service, shrinking
from benchmarks._measure import RESULTS, device_name, slug
from benchmarks._page import fill

GROUPS: dict[str, ModuleType] = {
    "methods": methods,
    "pruning": pruning,
    "export": exporting,
    "shrinking": shrinking,
    "service": service,
    "driver": driver,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="page whose tables are replaced")
    parser.add_argument("--only", choices=tuple(GROUPS), help="run this group only")
    args = parser.parse_args()
    console = Console(highlight=False)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{slug(device_name())}.json"
    before = json.loads(path.read_text()).get("results", {}) if args.only and path.exists() else {}
    record = {"date": time.strftime("%Y-%m-%d"), "device": device_name(), "torch": torch.__version__, "results": before}
    console.print(f"{record['device']}, torch {record['torch']}")
    for group in [args.only] if args.only else GROUPS:
        for benchmark in GROUPS[group].BENCHMARKS:
            console.print(f"\n[bold]{benchmark.__doc__}[/bold]")
            for name, variants in benchmark().items():
                record["results"][f"{benchmark.__name__}/{name}"] = variants
                console.print(as_table(name, variants))
            path.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"\nwritten to {path}")
    if args.write:
        args.write.write_text(fill(args.write.read_text(), record))
        console.print(f"tables replaced in {args.write}")


def as_table(name: str, variants: dict[str, dict]) -> Table:
    """Milliseconds and ratios if variants were compared, else the plain numbers."""
    compared = "median_s" in next(iter(variants.values())) and "ratio" in next(iter(variants.values()))
    columns = (
        ("median ms", "minimum ms", "ratio", "ratio of minima") if compared else tuple(next(iter(variants.values())))
    )
    table = Table(box=None, title=name, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for variant, measured in variants.items():
        if compared:
            row = [f"{1000 * measured[key]:.1f}" for key in ("median_s", "min_s")]
            row += [f"{measured[key]:.3f}" for key in ("ratio", "min_ratio")]
        else:
            row = [f"{measured[key]:.3f}" if measured.get(key) is not None else "" for key in columns]
        table.add_row(variant, *row)
    return table


if __name__ == "__main__":
    main()
