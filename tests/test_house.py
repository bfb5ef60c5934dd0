"""The house keeps its shape: imports point downwards, heavy ones stay out of quick commands, files stay readable."""

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

# From the ground upwards: a package may import from lower floors, and from itself.
FLOORS = [
    {"errors"},
    {"distributed", "files", "pruning"},
    {"config"},
    {"models", "tasks", "results"},
    {"methods"},
    {"training"},
    {"cli"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
# These must do without torch.
TABLE_READERS = {"errors", "files", "config", "results"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported dotted names, and whether the import stands at the top of the module."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        at_top = node in tree.body
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "neuroprune" else node.module for alias in node.names
            ]
            found += [(name, at_top) for name in names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
    return found


def test_every_module_has_a_floor():
    assert {module_of(path) for path in SOURCES} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = module_of(path)
    for name, _ in imports(path):
        assert name.split(".")[0] != "snakemake", f"{path}: the library must not need the workflow"
        if name.startswith("neuroprune.") and here != "__init__":
            other = name.split(".")[1]
            assert FLOOR[other] <= FLOOR[here], f"{path}: {here} imports {other}, which stands above it"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if module_of(p) in TABLE_READERS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_readers_of_tables_do_without_torch(path):
    heavy = {
        name for name, at_top in imports(path) if at_top and name.split(".")[0] in {"torch", "transformers", "datasets"}
    }
    assert not heavy


def test_importing_the_package_is_cheap():
    code = "import sys, neuroprune; print(sorted({'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


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
        for name in ("requirements.lock", "requirements-slurm.lock")
        for line in (ROOT / name).read_text().splitlines()
    }
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^(?:  |slurm = \[)"([A-Za-z0-9_-]+)[><=]', project, flags=re.MULTILINE)
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
