"""A report as Markdown, with its figures as PNG files in a folder beside it."""

import shutil
from functools import partial
from pathlib import Path

from service.views.report.blocks import Block, Code, Image, Items, Plot, Report, Table, Text
from trainables.files import write_atomically

__all__ = ["write_markdown"]


def write_markdown(report: Report, path: Path) -> None:
    figures = path.with_suffix("")
    figures.mkdir(exist_ok=True)
    parts = [f"# {report.title}"]
    for section in report.sections:
        parts.append(f"{'#' * (section.level + 1)} {section.title}")
        parts += [as_markdown(block, section.anchor, figures) for block in section.blocks]
    text = "\n\n".join(parts) + "\n"
    write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))


def as_markdown(block: Block, anchor: str, figures: Path) -> str:
    if isinstance(block, Text):
        return f"**{block.text}**" if block.strong else block.text
    if isinstance(block, Items):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Table):
        return as_table(block)
    if isinstance(block, Plot):
        file = f"{anchor}-{block.name}.png"
        block.figure.savefig(figures / file, format="png", dpi=150)
    elif isinstance(block, Image):
        file = f"{anchor}-{block.path.name}"
        shutil.copyfile(block.path, figures / file)
    return f"![{block.caption}]({figures.name}/{file})\n\n{block.caption}"


def as_table(table: Table) -> str:
    escaped = [[cell.text.replace("|", r"\|") for cell in row] for row in table.rows]
    bold = [[cell.bold for cell in row] for row in table.rows]
    body = [
        [f"**{text}**" if strong else text for text, strong in zip(texts, marks, strict=True)]
        for texts, marks in zip(escaped, bold, strict=True)
    ]
    rule = ["---" if index < table.num_labels else "---:" for index in range(len(table.header))]
    lines = [f"| {' | '.join(line)} |" for line in (list(table.header), rule, *body)]
    return f"{table.caption}\n\n" + "\n".join(lines)
