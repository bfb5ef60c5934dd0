"""Hooks of MkDocs: pages generated at build time, and links from docs/ to other files of the repository.

Pages in docs/ link to files elsewhere in the repository by relative paths, so that they can be read without the site.
The site contains a copy of each such file. A link to a folder leads to its README.md or becomes plain text.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")
WHOLE_LINK = re.compile(r"\[([^\[\]]+)\]\(([^)#\s:]+)\)")
PAGES = {"config/README.md": "configuration.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CODE = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml", ".cff": "yaml", "": "text"}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and what the pages link to outside of docs/."""
    add = lambda uri, **content: files.append(File.generated(config, uri, **content))  # noqa: E731
    add("commands.md", content=commands())
    for source, uri in PAGES.items():
        add(uri, content=(ROOT / source).read_text(encoding="utf-8"))
    sources = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | set(PAGES)
    for target in linked(sources - {f"docs/{uri}" for uri in (*PAGES.values(), "commands.md")}):
        uri, code = place(target), CODE.get(Path(target).suffix)
        text = {"content": listing(target, code)} if code else {"abs_src_path": str(ROOT / target)}
        add(uri, **text)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that leave docs/ lead to the site's copies."""
    uri = page.file.src_uri
    source = source_of(uri)
    text = WHOLE_LINK.sub(lambda link: link[1] if is_bare_folder(resolve(source, link[2])) else link[0], markdown)
    return LINK.sub(lambda link: redirect(link, source, uri), text)


def is_bare_folder(target: str) -> bool:
    """Return whether a target is a folder without a page to show for it."""
    return (ROOT / target).is_dir() and not (ROOT / target / "README.md").exists()


def redirect(link: re.Match[str], source: str, uri: str) -> str:
    """Return a link for the site."""
    target = resolve(source, link[1])
    if source.startswith("docs/") and target.startswith("docs/"):
        return link[0]
    return f"]({posixpath.relpath(place(target), posixpath.dirname(uri) or '.')}{link[2] or ''})"


def source_of(uri: str) -> str:
    """Return a page's path in the repository."""
    sources = {page: source for source, page in PAGES.items()}
    return uri.removeprefix("repository/") if uri.startswith("repository/") else sources.get(uri, f"docs/{uri}")


def place(target: str) -> str:
    """Return the place in the site of a file of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    name = f"repository/{target}"
    return PAGES.get(target, f"{name}.md" if Path(target).suffix in CODE else name)


def linked(sources: set[str]) -> Iterator[str]:
    """Yield each existing file outside of docs/ that pages link to, and what those pages link to in turn."""
    seen, waiting = set(PAGES), sorted(sources)
    while waiting:
        source = waiting.pop()
        for link in LINK.finditer((ROOT / source).read_text(encoding="utf-8")):
            target = resolve(source, link[1])
            if target in seen or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            yield target
            waiting += [target] if target.endswith(".md") else []


def resolve(source: str, link: str) -> str:
    """Return the path in the repository that a link of a source leads to; for a folder, that of its README.md."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target


def listing(target: str, language: str) -> str:
    """Return a page that shows a file of code."""
    return f"# {target}\n\n````{language}\n{(ROOT / target).read_text(encoding='utf-8')}\n````\n"


def commands() -> str:
    """Return the page of all sub-commands, from their parsers."""
    from neuroprune.cli import parser

    root = parser()
    (choices,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [section(name, command) for name, command in choices.choices.items()]
    return "\n\n".join(["# Commands", "`neuroprune COMMAND --help` prints the same.", *parts]) + "\n"


def section(name: str, command: argparse.ArgumentParser) -> str:
    """Return the part of one sub-command: usage and a table of its arguments."""
    words = " ".join(command.format_usage().removeprefix("usage: ").split())
    usage = textwrap.fill(words, 80, subsequent_indent="    ")
    rows = [row(action) for action in command._actions if action.dest != "help"]
    table = "\n".join(["| argument | meaning |", "|---|---|", *rows]) if rows else ""
    return f"## `neuroprune {name}`\n\n{command.description}\n\n```text\n{usage}\n```\n\n{table}".rstrip()


def row(action: argparse.Action) -> str:
    """Return the table's row of one argument."""
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
    return f"| `{names}{value}` | {str(action.help or '').replace('|', '/')} |"
