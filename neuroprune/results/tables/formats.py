"""Tables as csv, Markdown, LaTeX (booktabs) and self-contained HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment

from neuroprune.errors import UserError
from neuroprune.files.atomic import write_text
from neuroprune.results.plain_text import csv_text, markdown, one_line


class NothingToShowError(UserError):
    """A study has no rows for a table, for example because all runs diverged. The table shows this message."""


@dataclass(frozen=True)
class Table:
    """A table for readers and for programs.

    Attributes:
        title: One line that describes the content.
        numbers: For programs: unrounded, one column per quantity; the content of the csv.
        sections: For readers: rows by heading, all cells as text; empty if there is nothing to show.
        notes: Sentences below the table.
        lead: The main result in sentences, shown above the table.
    """

    title: str
    numbers: pd.DataFrame
    sections: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)
    lead: list[str] = field(default_factory=list)


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write a table atomically in all formats.

    Args:
        table: The table.
        stem: Path without extension, ``<study>/tables/summary``.

    Returns:
        The four files.
    """
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in FORMATS]
    for path, form in zip(paths, FORMATS.values(), strict=True):
        write_text(path, form(table))
    return paths


def to_csv(table: Table) -> str:
    """Return the unrounded numbers as csv."""
    return csv_text(table.numbers)


def to_markdown(table: Table) -> str:
    """Return headings, pipe tables and notes."""
    parts = [f"# {table.title}", *map(markdown, table.lead)]
    for heading, rows in table.sections.items():
        cells = rows.map(markdown)
        parts += [
            f"## {markdown(heading)}",
            cells.to_markdown(index=False, disable_numparse=True, colalign=_align(rows)),
        ]
    parts += ["\n".join(f"- {markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table) -> str:
    """Return one LaTeX table per section, to be read with ``input``; requires the package booktabs."""
    parts = []
    for heading, rows in table.sections.items():
        columns = "".join("l" if side == "left" else "r" for side in _align(rows))
        body = rows.map(_latex).rename(columns=_latex).to_latex(index=False, escape=False, column_format=columns)
        parts.append(
            f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(f'{table.title}: {heading}.')}}}\n{body}\\end{{table}}"
        )
    notes = [f"% {one_line(note)}" for note in table.notes]
    return "\n".join([*parts, *notes]) + "\n"


def to_html(table: Table) -> str:
    """Return a self-contained page with headings, notes, and tables that scroll sideways on small screens."""
    aligned = {heading: (rows, _align(rows)) for heading, rows in table.sections.items()}
    return Environment(autoescape=True, trim_blocks=True).from_string(PAGE).render(table=table, sections=aligned)


FORMATS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}

NBSP = "\u00a0"  # keeps a symbol and its value on one line
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "λ": r"$\lambda$",
    NBSP: "~",
    "×": r"$\times$",
    "§": r"\S{}",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "θ": r"$\theta$",
}


def _latex(text: str) -> str:
    """Escape LaTeX's special characters and replace symbols by commands."""
    return "".join(LATEX.get(sign, sign) for sign in str(text))


def _align(rows: pd.DataFrame) -> list[str]:
    """Align text columns left and number columns right."""
    return ["right" if rows[name].map(_is_number).all() else "left" for name in rows]


def _is_number(text: str) -> bool:
    """Return whether a cell is empty or starts like a number."""
    return not text or text[0].isdigit() or text[0] in "-–"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ table.title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 1.5rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .82rem; }
th, td { padding: .26rem .45rem; text-align: left; white-space: nowrap; vertical-align: top; }
thead th { border-top: 2px solid #333; border-bottom: 1px solid #333; vertical-align: bottom; white-space: normal; }
tbody tr:last-child td { border-bottom: 2px solid #333; }
tbody tr:nth-child(even) { background: #f6f6f4; } tbody tr:hover { background: #e8f1f8; }
tbody tr.first td { border-top: 1px solid #999; }
.right { text-align: right; }
td.left { white-space: normal; max-width: 9rem; }
.lead { font-size: 1.05rem; max-width: 60rem; margin: .4rem 0; }
.notes { color: #444; font-size: .87rem; max-width: 60rem; padding-left: 1.2rem; }
</style>
</head>
<body>
<h1>{{ table.title }}</h1>
{% for sentence in table.lead %}
<p class="lead">{{ sentence }}</p>
{% endfor %}
{% for heading, (rows, align) in sections.items() %}
<h2>{{ heading }}</h2>
<div class="wide"><table>
<thead><tr>
{% for name in rows.columns %}
<th scope="col" class="{{ align[loop.index0] }}">{{ name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows.values.tolist() %}
<tr{% if loop.first or loop.previtem[0] != row[0] %} class="first"{% endif %}>
{% for cell in row %}
<td class="{{ align[loop.index0] }}">{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
{% if table.notes %}
<ul class="notes">
{% for note in table.notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
</body>
</html>
"""
