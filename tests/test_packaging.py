"""Consistency of a release: versions, the container's pins, and the builds of continuous integration."""

import re
import tomllib
from pathlib import Path

import yaml

import neuroprune

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version == newest
    assert neuroprune.__version__ == version


def test_the_container_installs_the_locked_versions():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (python,) = [match[1] for line in lines if (match := re.match(r"FROM python:([\d.]+)-", line))]
    assert f"python={python}" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [line.rpartition("-r ")[2] for line in lines if " -r " in line] == ["requirements.lock"]
    assert [line for line in lines if "pip install" in line and "--no-deps" not in line and " -r " not in line] == []
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert copied and all((ROOT / path).exists() for path in copied)


def test_continuous_integration_builds_the_package_and_the_site():
    called = (ROOT / ".ci" / "run").read_text()
    assert {"make test", "make lint", "make docs", ".ci/package"} <= {
        line.partition(" #")[0] for line in called.splitlines()
    }
    assert (ROOT / ".ci" / "package").stat().st_mode & 0o100


def test_the_source_distribution_is_told_about_files_that_exist():
    words = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    assert all((ROOT / name).exists() for _, *names in words for name in names)
