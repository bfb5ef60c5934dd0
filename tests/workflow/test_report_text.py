"""Captions of the report: arbitrary texts of a study are escaped."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment

REPORT = Path(__file__).parents[2] / "workflow" / "report"
SECRET = "the content of another file"


def rendered(name, config):
    """Render a caption as Snakemake does."""
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string((REPORT / name).read_text())
    text = template.render(snakemake=SimpleNamespace(config=config))
    return publish_parts(text, writer="html", settings_overrides={"report_level": 1})["body"]


def study(**method):
    experiment = {"models": ["bert_base"], "tasks": ["sst2"], "methods": [{"name": "cofi", **method}], "seeds": [0, 1]}
    return {"study": "my_", "experiments": {"glue": experiment}}


@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\x0b\x0b", "\x85\x85", "\u2028\u2028", "\x1c\x1c"])
@pytest.mark.parametrize(
    "text",
    [
        ".. raw:: html\n\n   <script>alert(1)</script>",
        ".. include:: FILE",
        ".. csv-table::\n   :file: FILE",
        ".. role:: raw-html(raw)\n   :format: html",
    ],
)
def test_directives_in_a_study_are_text(tmp_path, gap, text):
    (tmp_path / "secret").write_text(SECRET)
    hostile = "x" + gap + text.replace("FILE", str(tmp_path / "secret")).replace("\n", gap[:1]) + gap + "y"
    body = rendered("workflow.rst", study(teacher=hostile))
    assert SECRET not in body and "<script" not in body and "system-message" not in body
    assert "alert(1)" in body or "alert" not in text


@pytest.mark.parametrize(
    "text",
    ["`click <javascript:alert(1)>`__", "javascript:alert(1)", "|substitution|", "*a", "``b", "c_", "<b>d</b>", "\\"],
)
def test_markup_in_a_study_is_text(text):
    body = rendered("workflow.rst", study(teacher=text))
    assert "javascript" not in body.split('href="')[-1].split('"')[0]
    assert "system-message" not in body and "<b>" not in body and "problematic" not in body


@pytest.mark.parametrize("path", sorted(REPORT.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_are_sound_whatever_the_study_is_called(path):
    body = rendered(path.name, study(teacher="bert", strengths=[0.1, 0.2]))
    assert "system-message" not in body and "my_" in body


def test_the_first_page_opens_on_the_result():
    sentence = "my_model on sst2, 80 % removed by NeuroPrune: 79.4 ± 0.4 % accuracy; *n* = 3."
    body = rendered("workflow.rst", study() | {"headline": [sentence, "Another."]})
    assert f"<strong>Result</strong>: {sentence}" in body
    assert body.index("Another.") < body.index("Compared settings")
    assert "Result</strong>" not in rendered("workflow.rst", study())


def test_the_first_page_embeds_the_picture_of_the_result():
    lines = ["data:image/png;base64," + "A" * 4000, "B" * 5000, "C" * 4000]
    body = rendered("workflow.rst", study() | {"headline": ["One."], "picture": lines})
    assert f'src="{"".join(lines)}"' in body and "system-message" not in body
    assert body.index("One.") < body.index("<img") < body.index("Compared settings")
    assert "<img" not in rendered("workflow.rst", study())
