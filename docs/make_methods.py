"""Write docs/methods.md from the docstrings of the methods: `python docs/make_methods.py`."""

import inspect
from pathlib import Path

import sparsity

FOLDERS = {
    "Regularizers": "regularizers",
    "Optimizers": "optimizers",
    "Criteria": "criteria",
    "Pruning schedules": "trainables.pruning_schedules",
}
INTRODUCTION = """# Methods

Each method is a file of `sparsity/regularizers`, `sparsity/optimizers`, `sparsity/criteria` or
`trainables/pruning_schedules`, and its name is the name of that file. Formulas, shapes, units and errors are in the
docstrings (see the API reference).

A cost such as "2 x the weights" is memory beside the weights and their gradients. The search uses the ranges in these
tables, unless the search space has its own.

Criteria that need data see the first 512 training examples, without augmentation. If these have more than 65,536
tokens, a language model uses only the first ones, up to this number. `snip` and `gradient_magnitude` sum gradients over
parts of the examples, so that autograd keeps about 4 GiB at a time. `grasp` and `compensation` need all examples at
once, and use only as many as fit in 4 GiB. The sharpness at the end of a trial (`--sharpness`) has the same limits with
batches of 1,024 examples.

SAM and its relatives perturb the trained parameters: with LoRA, the factors. `cram`, `sfw` and `safe` make all trained
tensors of more than one dimension sparse, except position embeddings and class tokens.

`python docs/make_methods.py` writes this page from the docstrings: the first line, and the sections "Reference" and
"Cost". Do not edit it by hand.
"""


def section(docstring: str, title: str) -> str:
    """Return the text of a docstring's section, the paragraph that begins with its title, on one line; "" if absent."""
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith(f"{title}:"):
            return " ".join(paragraph.removeprefix(f"{title}:").split())
    return ""


def ranges(method) -> str:
    """Return the search ranges of a method's arguments, such as "rho: 0.02 to 1"."""
    found = dict(getattr(method, "ranges", {}))
    if lam_range := getattr(method, "lam_range", None):
        found["lam"] = lam_range
    return ", ".join(f"{name}: {r.low:g} to {r.high:g}" for name, r in found.items())


def row(name: str, method) -> str:
    """Return the row of a method in its table."""
    docstring = inspect.getdoc(method) or ""
    summary = docstring.partition("\n")[0]
    cells = [f"`{name}`", summary, ranges(method), section(docstring, "Reference"), section(docstring, "Cost")]
    return "| " + " | ".join(cell.replace("|", "\\|") or "-" for cell in cells) + " |"


def page() -> str:
    """Return the text of docs/methods.md."""
    parts = [INTRODUCTION]
    for title, kind in FOLDERS.items():
        rows = [row(name, sparsity.load(kind, name)) for name in sparsity.names(kind)]
        header = ["| name | what it is | range | reference | cost |", "| --- | --- | --- | --- | --- |"]
        parts.append("\n".join([f"\n## {title}\n", *header, *rows]) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page())
