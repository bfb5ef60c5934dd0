"""The report at the end of a workflow, and the message if it can't be generated."""

import base64
from pathlib import Path

import pytest

from neuroprune.results.report import ASKED, headline, make_report, picture, report_command

FAILS = ["no_such_program", "--report", "results/small/report.html"]


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.delenv(ASKED, raising=False)


def test_the_command_repeats_how_the_study_was_configured():
    command = report_command(Path("/np/Snakefile"), Path("out/small"), ["a.yaml", "b.yaml"], {"seeds": [0, 1]})
    assert command == [
        *("snakemake", "--snakefile", "/np/Snakefile", "--quiet", "all", "--configfile", "a.yaml", "b.yaml"),
        *("--config", "seeds=[0, 1]", "--report", "out/small/report.html"),
        *("--report-stylesheet", "/np/workflow/report/report.css"),
    ]
    assert not {"--configfile", "--config"} & set(report_command(Path("Snakefile"), Path("results/demo"), [], {}))


def test_a_report_that_can_t_be_made_is_told_with_the_command_for_another_try():
    said = make_report(FAILS, [__file__])
    assert said.startswith("The report could not be made; try again with\n  no_such_program --report results/small")
    assert "No module named no_such_program" in said


def test_there_is_none_before_all_is_drawn_or_if_none_is_wanted(tmp_path, monkeypatch):
    assert make_report(FAILS, [__file__, tmp_path / "figure4.svg"]) is None
    monkeypatch.setenv(ASKED, "")
    assert make_report(FAILS, [__file__]) is None


def test_the_first_page_shows_the_frontier_or_else_figure_4(tmp_path):
    assert picture(tmp_path) == []
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure4.png").write_bytes(b"four")
    assert picture(tmp_path) == ["data:image/png;base64,Zm91cg=="]
    (tmp_path / "figures" / "frontier.png").write_bytes(b"frontier" * 1000)
    lines = picture(tmp_path)
    assert "".join(lines) == f"data:image/png;base64,{base64.b64encode(b'frontier' * 1000).decode()}"
    assert len(lines) == 3 and max(map(len, lines)) == 5000


def test_the_headline_is_what_the_summary_opens_with(tmp_path):
    assert headline(tmp_path) == []
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "summary.md").write_text("# Summary\n\nOne.\n\nTwo.\n\n## minilm\n\n| a |\n|---|\n| b |\n")
    assert headline(tmp_path) == ["One.", "Two."]
    (tmp_path / "tables" / "summary.md").write_text("# Summary\n\n| a |\n|---|\n| b |\n")
    assert headline(tmp_path) == []
