"""`make` targets with logic: publishing a study, and locating its results."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
STUDY = yaml.safe_load("""
study: small
models: {tiny: {source: "random:bert"}}
experiments: {one: {models: [tiny], tasks: [sst2], methods: [{name: dense}]}}
""")


@pytest.fixture
def place(tmp_path):
    """A folder with a study's file and the results of another study, published before."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(STUDY))
    for folder in ("results/published/other", "results/published/small"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "runs.csv").write_text("earlier\n")
    return tmp_path


def make(place, *words):
    """Call make there with this environment's programs, without setting one up."""
    given = ["make", "-f", ROOT / "Makefile", "-o", PROGRAMS / ".ready", f"BIN={PROGRAMS}", *words]
    return subprocess.run(given, cwd=place, capture_output=True, text=True, check=False)


def published(place):
    return {
        str(file.relative_to(place)): file.read_text()
        for file in place.glob("results/published/**/*")
        if file.is_file()
    }


@pytest.mark.parametrize("config", ["typo.yaml", "small.yaml"], ids=["no such study", "not run"])
def test_publishing_what_is_not_there_fails_and_leaves_all_that_is_published(place, config):
    before = published(place)
    done = make(place, "publish", f"CONFIG={config}")
    assert done.returncode != 0
    assert ("run the study first" if config == "small.yaml" else "typo.yaml") in done.stderr
    assert published(place) == before


@pytest.mark.parametrize(
    ("results", "config"), [("results", "small.yaml"), ("elsewhere", "small.yaml"), ("results", "my study.yaml")]
)
def test_publishing_copies_what_is_to_be_kept_from_where_the_study_has_its_results(place, results, config):
    (place / config).write_text(yaml.safe_dump(STUDY | {"results": results}))
    kept, left = ("runs.csv", "runs/a/run.json"), ("report.html", "logs/a.log", "runs/a/train.log", "runs/a/model/w")
    for name in (*kept, *left):
        file = place / results / "small" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("new\n")
    done = make(place, "publish", f"CONFIG={config}")
    assert done.returncode == 0, done.stderr
    new = {f"results/published/small/{name}": "new\n" for name in kept}
    assert published(place) == {"results/published/other/runs.csv": "earlier\n"} | new


def test_clean_keeps_the_published_results(place):
    for folder in ("results/small", "resources", ".snakemake"):
        (place / folder).mkdir()
    before = published(place)
    assert make(place, "clean").returncode == 0
    assert published(place) == before != {}
    assert {path.name for path in place.iterdir()} == {"config", "results", "small.yaml"}
    assert [path.name for path in (place / "results").iterdir()] == ["published"]


@pytest.mark.parametrize(
    ("path", "ignored"), [("results/demo/runs.csv", True), ("results/published/demo/runs.csv", False)]
)
def test_git_ignores_all_results_but_the_published_ones(place, path, ignored):
    shutil.copy(ROOT / ".gitignore", place)
    subprocess.run(["git", "init", "--quiet"], cwd=place, check=True)
    done = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=place, check=False)
    assert done.returncode == (0 if ignored else 1)


def test_a_study_that_snakemake_cannot_read_is_refused_in_a_sentence(place):
    (place / "small.yaml").write_bytes(yaml.safe_dump(STUDY).encode("utf-16"))
    (place / "small.yaml").rename(place / "my study.yaml")
    done = make(place, "run", "CONFIG=my study.yaml")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.startswith("my study.yaml: the file is text in UTF-16; save it as UTF-8\n")
    assert not (place / ".snakemake").exists()


def test_a_study_starts_with_a_profile_that_gives_the_number_of_cores(place):
    plain, cluster = (make(place, "-n", "run", *words).stdout for words in ((), ("PROFILE=workflow/profiles/slurm",)))
    assert 'snakemake --cores all --configfile "config/config.yaml"' in plain and "--estimate" in plain
    assert 'snakemake --workflow-profile workflow/profiles/slurm --configfile "config/config.yaml"' in cluster
    assert "--cores" not in cluster and "--estimate" not in cluster and "plan --config" in cluster
