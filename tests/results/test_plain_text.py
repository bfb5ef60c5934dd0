"""Escaping of texts from studies and foreign records in csv, Markdown and LaTeX."""

import json

import pandas as pd
import pytest

from helpers import results
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.plain_text import csv_text
from neuroprune.results.runs import read_runs
from neuroprune.results.tables import formats

HOSTILE = "=cmd|' /C calc'!A0"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_computes_no_text(start):
    table = pd.DataFrame({"text": [f"{start}1+1", "plain=", ""], "number": [-1.5, 2, float("nan")], "int": [-1, 0, 1]})
    written = csv_text(table)
    assert f"'{start}1+1" in written and "plain=" in written and "'plain" not in written
    assert "-1.5" in written and ",-1\n" in written


def test_a_processor_called_like_a_formula_is_no_formula_in_any_csv(tmp_path):
    folder = tmp_path / "odd"
    results.write_run(folder, results.settings(), cpu=HOSTILE)
    results.write_run(folder, results.settings(method={"name": "neuroprune", "sparsity": 0.5}), cpu=HOSTILE)
    collect(folder)
    for name in tables.TABLES:
        tables.write(name, folder)
    for name in figures.FIGURES:
        figures.draw(name, folder)
    assert set(read_runs(folder)["cpu"]) == {f"'{HOSTILE}"}
    for path in folder.rglob("*.csv"):
        cells = pd.read_csv(path, dtype=str, keep_default_na=False, header=None).to_numpy().ravel()
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], path
    assert HOSTILE not in json.loads((folder / "provenance.json").read_text())["notes"]


def test_notes_and_cells_are_lines_of_text_in_markdown_and_latex():
    rows = pd.DataFrame({"Method": ["<script>alert(1)</script> | b\n# c"]})
    table = formats.Table("t", rows, {"h\n\n# i": rows}, ["a\n\\input{/etc/passwd}\n- <img src=x>"])
    text = formats.to_markdown(table)
    assert "<script" not in text and "<img" not in text and "\n# c" not in text and "\n# i" not in text
    assert "\\| b # c" in text
    assert formats.to_latex(table).splitlines()[-1] == "% a \\input{/etc/passwd} - <img src=x>"
