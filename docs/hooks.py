"""MkDocs hook: the pages that are made from the Markdown files of the repository's root."""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Files, config) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=for_the_site((ROOT / source).read_text(encoding="utf-8"))))
    return files


def for_the_site(text: str) -> str:
    """Point links to files of the repository's root and of docs/ at their pages."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\((\w+\.md)(?=[#)])", lambda link: f"]({PAGES.get(link[1], link[1])}", text)
