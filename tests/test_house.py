"""Repository checks: light imports, readable files, matching dependency pins."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neuroprune"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Tables and figures are drawn from records only and must not import training libraries.
TABLE_READERS = {"errors", "files", "config", "results"}
HEAVY = {"torch", "transformers", "datasets"}


def loaded_by(modules: list[str], watched: set[str]) -> set[str]:
    """Return the watched packages that a fresh interpreter loads when importing the modules."""
    code = f"import sys, {', '.join(modules)}; print(*({watched!r} & set(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_readers_of_tables_do_without_torch():
    readers = [path for path in SOURCES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in TABLE_READERS]
    assert loaded_by([dotted(path) for path in readers], HEAVY) == set()


def test_importing_the_package_is_cheap():
    assert loaded_by(["neuroprune"], HEAVY | {"pandas", "matplotlib"}) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert text.count("\n") <= 420, f"{path}: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name}: split it"


def test_conda_users_get_the_same_pins():
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = re.findall(r"^      - (\S+)$", (ROOT / "environment.yml").read_text(), flags=re.MULTILINE)
    assert pins == lock
    assert all("==" in pin for pin in lock)


def test_every_dependency_is_pinned_and_imported():
    lock = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for name in ("requirements.lock", "requirements-slurm.lock", "requirements-docs.lock")
        for line in (ROOT / name).read_text().splitlines()
    }
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^(?:  |slurm = \[)"([A-Za-z0-9_-]+)(?:\[\w+\])?[><=]', project, flags=re.MULTILINE)
    assert wanted
    assert {name.lower().replace("_", "-") for name in wanted} <= lock


def test_the_lowest_versions_that_are_allowed_are_those_that_are_tested():
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = tables["optional-dependencies"]
    allowed = [Requirement(text) for text in (*tables["dependencies"], *extras["test"], *extras["onnx"])]
    lines = (ROOT / "requirements-oldest.lock").read_text().splitlines()
    tested = {pin.name: pin for pin in (Requirement(line) for line in lines if not line.startswith("#"))}
    for wanted in allowed:
        (lowest,) = (bound.version for bound in wanted.specifier if bound.operator == ">=")
        assert tested[wanted.name].specifier.contains(lowest), f"{wanted}: run `make lock` and `make test-oldest`"
