"""Paths, modules, commands and make targets that the documentation names exist."""

import re
import shlex
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from unicodedata import normalize

import pytest

import neuroprune
from helpers.published import tables
from neuroprune.cli import parser
from neuroprune.config import gpu_hours
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.methods import METHODS
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.results.figures import FIGURES
from neuroprune.results.needs import needed_runs
from neuroprune.results.tables import TABLES

ROOT = Path(__file__).parents[1]
PINS = (ROOT / "requirements.lock").read_text().splitlines()
PATTERNS = ("*.md", "config/*.md", "docs/**/*.md", "config/**/*.yaml")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
MADE_BY_RUNS = re.compile(r"results/(?!published/)|resources/|\.venv|\.snakemake|site/|tasks/NAME|config/(?:my|NAME)\.")
OTHER = re.compile(r"[<>…*{}$=:]|://|^[~/]")
EXAMPLES = {"my.yaml", "run.json", "plan.json", "config.json", "runs.csv", "report.html"}
EXAMPLES |= {"figure5.yaml", "my_task.yaml", "train.log", "train.1.log", "measure.log", "mine.py"}
FOLDERS = ("", "config", "neuroprune", "neuroprune/config", "neuroprune/methods", "results/published", "workflow")


def blocks(page):
    """Return the lines of a page's shell blocks, without comments."""
    found = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [re.sub(r"\s+# .*", "", line) for block in found for line in block.splitlines()]


def inline(page):
    """Return a page's inline code; of a YAML file, that of its comments."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    if page.suffix == ".yaml":
        text = "\n".join(line for line in text.splitlines() if "#" in line)
    return re.findall(r"`([^`\n]+)`", text)


def code(page):
    return blocks(page) + inline(page)


def calls(snippets, program):
    """Return the calls of a program, each as its words after the program's name."""
    return [words[1:] for snippet in snippets if (words := split(snippet)) and words[0] == program and words[1:]]


def split(snippet):
    try:
        return shlex.split(snippet, comments=True)
    except ValueError:  # an apostrophe: no command
        return []


def paths(page):
    """Return the words in code that name a file or folder of the repository."""
    words = {word.strip("`,;") for snippet in code(page) for word in snippet.split()}
    files = {word for word in words if re.search(r"\w/|\.(?:py|ya?ml|md|json|toml|lock|smk)$", word)}
    top = {path.name for path in ROOT.iterdir()}
    named = {word for word in files if word.split("/")[0] in top or "/" not in word}
    return {word for word in named if not (OTHER.search(word) or MADE_BY_RUNS.search(word))} - EXAMPLES


by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@by_page
def test_links_to_sections_lead_to_a_heading(page):
    found = re.findall(r"\]\(([^)#:]*\.md|)#([^)]+)\)", page.read_text())
    assert [link for link in found if link[1] not in anchors(page.parent / link[0] if link[0] else page)] == []


def anchors(page):
    """Return the anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    plain = (normalize("NFKD", heading).encode("ascii", "ignore").decode().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


@by_page
def test_paths_exist(page):
    missing = [word for word in paths(page) if not any((ROOT / folder / word).exists() for folder in FOLDERS)]
    assert sorted(missing) == []


@by_page
def test_modules_exist(page):
    names = {name for snippet in code(page) for name in re.findall(r"\bneuroprune(?:\.[a-z_]\w*)+", snippet)}
    assert sorted(name for name in names if not importable(name)) == []


def test_the_python_api_names_what_exists():
    names = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert [name for name in names if not importable(name)] == []
    assert {name.rpartition(".")[2] for name in names} >= set(neuroprune.__all__)


def importable(name):
    try:
        return bool(resolve_name(name))
    except (AttributeError, ImportError):
        return False


@by_page
def test_commands_of_blocks_parse(page):
    for words in calls(blocks(page), "neuroprune"):
        assert callable(parser().parse_args(words).run)


@by_page
def test_commands_in_the_text_exist(page):
    named = {words[0] for words in calls(inline(page), "neuroprune") if words[0][0] != "-"}
    (known,) = [set(action.choices) for action in parser()._actions if action.choices]
    assert named <= known


@by_page
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)) | {".venv"}
    asked = {words[0] for words in calls(code(page), "make") if "=" not in words[0]}
    assert asked <= targets


@by_page
def test_snakemake_targets_exist(page):
    known = {*FIGURES, *TABLES}
    asked = {
        word for words in calls(code(page), "snakemake") for word in words if re.fullmatch(r"figure\d+|table\d+", word)
    }
    assert asked <= known


def column(page, title):
    """Return the first column of the page's table that starts with a title, without the marks of code."""
    (table,) = [table for table in tables((ROOT / "docs" / page).read_text()) if table[0][0] == title]
    return [row[0].strip("`") for row in table[2:]]


def test_pages_list_every_architecture_and_method():
    assert sorted(column("architectures.md", "model type")) == sorted(ARCHITECTURES)
    assert set(column("methods.md", "name in a study")) == set(METHODS)


def test_costs_of_the_papers_artefacts_are_those_of_the_plan():
    plan = make_plan(read_study([ROOT / "config" / "paper.yaml"]), "config/paper.yaml", ROOT / "config", [])
    (table, *_) = tables((ROOT / "docs" / "artefacts.md").read_text())
    told = {name: row[2:] for row in table[2:] for name in re.findall(r"`(\w+)`", row[0])}
    assert set(told) == {name for name in (*FIGURES, *TABLES) if re.fullmatch(r"(figure|table)\d+", name)}
    for name, cells in told.items():
        runs = {run: plan.runs[run] for run in needed_runs(name, plan.runs)}
        assert cells == [f"{len(runs):,}", f"{gpu_hours.cost(runs, set()).hours:,.0f}"], name


def test_the_checks_read_what_they_should():
    """The collections are not empty, and a name that does not exist is noticed."""
    readme, guide = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
    assert {"neuroprune/pruning/architectures.py", "tests/pruning/test_heads.py"} <= paths(guide)
    assert ["plan", "--config", "config/config.yaml"] in calls(code(ROOT / "docs" / "studies.md"), "neuroprune")
    assert ["demo"] in calls(code(readme), "make")
    assert importable("neuroprune.errors.UserError")
    assert not importable("neuroprune.errors.Missing")
    assert not importable("neuroprune.missing")


def figures():
    """Import docs/tools/figures.py, which belongs to no package."""
    spec = spec_from_file_location("docs_figures", ROOT / "docs" / "tools" / "figures.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(f"matplotlib=={version('matplotlib')}" not in PINS, reason="texts have other widths elsewhere")
def test_figures_of_the_documentation_are_drawn_by_the_current_code():
    drawn = figures()
    assert {path.stem for path in drawn.FOLDER.glob("*.svg")} == set(drawn.FIGURES)
    assert [name for name in drawn.FIGURES if drawn.draw(name) != (drawn.FOLDER / f"{name}.svg").read_text()] == []
