"""A report's tables and figures as LaTeX, for a paper: `booktabs` tables, and figures as PDF files in a folder."""

from functools import partial
from pathlib import Path

import pandas as pd

from service.views.report.blocks import Block, Code, Image, Items, Plot, Report, Table, Text
from trainables.files import write_atomically

__all__ = ["write_latex"]

PREAMBLE = r"""% Needs \usepackage{booktabs,graphicx}. \input this file, or copy what you need."""


def write_latex(report: Report, path: Path) -> None:
    figures = path.with_suffix("")
    figures.mkdir(exist_ok=True)
    parts = [PREAMBLE]
    for section in report.sections:
        parts.append(rf"\{'sub' * (section.level - 1)}section{{{escape(section.title)}}}")
        parts += [as_latex(block, section.anchor, figures) for block in section.blocks]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))


def as_latex(block: Block, anchor: str, figures: Path) -> str:
    if isinstance(block, Text):
        return escape(block.text)
    if isinstance(block, Items):
        items = "\n".join(rf"\item {escape(item)}" for item in block.items)
        return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
    if isinstance(block, Code):
        return "\\begin{verbatim}\n" + block.text + "\n\\end{verbatim}"
    if isinstance(block, Table):
        return as_table(block)
    if isinstance(block, Image):
        return ""
    assert isinstance(block, Plot)
    file = f"{anchor}-{block.name}.pdf"
    block.figure.savefig(figures / file, format="pdf")
    return (
        "\\begin{figure}\n\\centering\n"
        rf"\includegraphics[width=\linewidth]{{{figures.name}/{file}}}"
        "\n" + rf"\caption{{{escape(block.caption)}}}" + "\n\\end{figure}"
    )


def as_table(table: Table) -> str:
    """By pandas, which writes booktabs' rules and escapes special characters."""
    frame = pd.DataFrame([[cell.text for cell in row] for row in table.rows], columns=pd.Index(table.header))
    frame.columns = pd.Index([escape(name) for name in table.header])
    bold = [[cell.bold for cell in row] for row in table.rows]
    styles = pd.DataFrame([["textbf:--rwrap;" * mark for mark in row] for row in bold], columns=frame.columns)
    style = frame.style.hide(axis="index").format(escape="latex").apply(lambda _: styles, axis=None)
    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    return style.to_latex(hrules=True, column_format=columns, caption=escape(table.caption), position_float="centering")


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: rf"\{character}" for character in "&%$#_{}"},
}


def escape(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)
