"""A study's HTML report, made by `snakemake --report` once the workflow is complete."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ASKED = "NEUROPRUNE_REPORT"
"""Environment variable; empty: no report is made when a workflow ends."""


def report_command(snakefile: Path, study: Path, files: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
    """Return the command that makes a report.

    Args:
        snakefile: The workflow.
        study: The study's folder; the report is `report.html` in it.
        files: The study's files, as given to `--configfile`; none: the demo.
        changes: What was given to `--config`.

    Returns:
        The command, word by word, for the folder in which the workflow works.
    """
    words = ["snakemake", "--snakefile", str(snakefile), "--quiet", "all"]
    words += ["--configfile", *files] if files else []
    words += ["--config", *(f"{key}={json.dumps(value)}" for key, value in changes.items())] if changes else []
    stylesheet = snakefile.parent / "workflow" / "report" / "report.css"
    return [*words, "--report", str(study / "report.html"), "--report-stylesheet", str(stylesheet)]


def headline(study: Path) -> list[str]:
    """Return the sentences with which the summary table of a study opens; none if there is no summary."""
    path = study / "tables" / "summary.md"
    if not path.exists():
        return []
    opening = path.read_text().split("\n#", 1)[0].split("\n|", 1)[0]
    return [line for line in opening.splitlines()[1:] if line]


def make_report(command: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Make the report of a finished workflow.

    Args:
        command: As `report_command` gives it.
        wanted: All figures and tables of the study; if one is not there, because only some were asked for, there is no
            report.

    Returns:
        A sentence with the path of the report or the reason why there is none; None if none was requested.
    """
    if os.environ.get(ASKED) == "" or not all(map(os.path.exists, wanted)):
        return None
    done = subprocess.run(
        [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return "\n".join(["The report could not be made; try again with", f"  {shlex.join(command)}", *said])
    return f"The report: {command[command.index('--report') + 1]}"
