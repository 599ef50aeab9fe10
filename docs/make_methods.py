"""Writes docs/methods.md from the methods' docstrings: `python docs/make_methods.py`."""

import inspect
import re
from pathlib import Path

import sparsity

INTRODUCTION = """# The methods, and what each costs

Made by `python docs/make_methods.py` from the docstrings, which give formulas, shapes, units and errors. `n x the
weights` is memory beside the weights and their gradients.
"""


def section(text: str, name: str) -> str:
    """The paragraph of a docstring that begins with `name:`, up to the next such word, on one line."""
    found = re.search(
        rf"^\s*{name}: (.+?)(?=^\s*[\w, ]+(?: and [\w, ]+)?: |^\s*$|\Z|^\s*ValueError)", text, re.M | re.S
    )
    return " ".join(found[1].split()).partition(". Returns ")[0].rstrip(".") if found else "-"


def first_sentence(text: str) -> str:
    """Of a docstring, with its line breaks gone."""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def page() -> str:
    parts = [INTRODUCTION]
    packages = {kind: f"sparsity.{kind}" for kind in ("regularizers", "optimizers", "criteria")}
    for kind, package in {**packages, "pruning_schedules": "trainables.pruning_schedules"}.items():
        rows = [f"\n## {kind.capitalize()}\n", "| name | what it is | source | cost |", "| --- | --- | --- | --- |"]
        for name in sparsity.choices(package):
            text = inspect.getdoc(sparsity.find(package, name)) or ""
            cells = [
                f"`{name}`",
                first_sentence(text),
                section(text, "Reference") if "Reference: " in text else section(text, "Source"),
                section(text, "Cost"),
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(rows) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page())
