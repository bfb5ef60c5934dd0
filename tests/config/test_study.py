"""Settings of a study that change the layout of its results."""

import pytest

from neuroprune.config.catalogue import make_plan
from neuroprune.errors import ConfigError

STUDY = {
    "study": "small",
    "models": {"tiny": {"source": "random:bert"}},
    "tasks": {"words": {"source": "some/words", "inputs": ["text"]}},
    "experiments": {"e": {"models": ["tiny"], "tasks": ["words"], "methods": [{"name": "dense"}]}},
}


@pytest.mark.parametrize(
    ("written", "folder"),
    [
        ("out", "out/small"),
        ("out/", "out/small"),
        ("./out", "out/small"),
        ("out//./", "out/small"),
        (".", "small"),
        ("../out/", "../out/small"),
        ("/out/", "/out/small"),
    ],
)
def test_a_folder_of_results_has_one_spelling(written, folder):
    assert make_plan(STUDY | {"results": written}, "study").study.folder == folder


def test_a_list_without_artefacts_is_refused():
    with pytest.raises(ConfigError) as caught:
        make_plan(STUDY | {"artefacts": []}, "my.yaml")
    assert caught.value.problems == ["my.yaml: artefacts: [] is not allowed; it must have at least 1 item"]
