"""`python -m benchmarks`: run all, print the ratios, keep them in benchmarks/results/ with date and device."""

import json
import platform
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import methods

RESULTS = Path(__file__).parent / "results"


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {torch.get_num_threads()} threads"


def main() -> None:
    console = Console(highlight=False)
    record: dict = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(),
        "torch": torch.__version__,
        "results": {},
    }
    console.print(f"{record['device']}, torch {record['torch']}")
    for benchmark in methods.BENCHMARKS:
        console.print(f"\n[bold]{benchmark.__doc__}[/bold]")
        for name, variants in benchmark().items():
            record["results"][f"{benchmark.__name__}/{name}"] = variants
            table = Table(box=None, title=name, title_justify="left")
            for column in ("variant", "median ms", "quartiles ms", "ratio"):
                table.add_column(column, justify="left" if column == "variant" else "right")
            for variant, measured in variants.items():
                low, high = (1000 * t for t in measured["quartiles_s"])
                milliseconds = f"{1000 * measured['median_s']:.1f}"
                table.add_row(variant, milliseconds, f"{low:.1f} to {high:.1f}", f"{measured['ratio']:.3f}")
            console.print(table)
    RESULTS.mkdir(exist_ok=True)
    slug = "-".join("".join(c if c.isalnum() else " " for c in record["device"].lower()).split())
    path = RESULTS / f"{record['date']}-{slug[:60]}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"\nwritten to {path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else f"\n{path}")


if __name__ == "__main__":
    main()
