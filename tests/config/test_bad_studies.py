"""Studies that would fail or hang later are rejected during planning, with the key in the message."""

import copy

import pytest

from neuroprune.config.catalogue import make_plan
from neuroprune.errors import ConfigError

STUDY = {
    "study": "s",
    "models": {"m": {"source": "random:bert"}},
    "tasks": {"t": {"source": "some/where", "inputs": ["text"]}},
    "experiments": {"e": {"models": ["m"], "tasks": ["t"], "methods": [{"name": "l1", "sparsity": 0.5}]}},
}
METHOD = ("experiments", "e", "methods", 0)


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("seeds",), [2**32], "seeds[0]"),
        (("seeds",), [-1], "seeds[0]"),
        (("seeds",), list(range(100_000)), "seeds"),
        (("experiments", "e", "seeds"), [2**64], "experiments.e.seeds[0]"),
        (("training",), {"epochs": 1e308}, "training.epochs"),
        (("training",), {"epochs": 0}, "training.epochs"),
        (("training",), {"threads": 10**12}, "training.threads"),
        (("training",), {"processes": 10**6}, "training.processes"),
        (("training",), {"learning_rate": float("inf")}, "training.learning_rate"),
        (("experiments", "e", "training"), {"epochs": float("nan")}, "experiments.e.training.epochs"),
        (METHOD, {"name": "l1", "sparsity": 0.5, "events": 10**9}, "experiments.e.methods[0].events"),
        (METHOD, {"name": "taylor", "sparsity": 0.5, "events": 1001}, "experiments.e.methods[0].events"),
        (
            METHOD,
            {"name": "neuroprune", "alpha": [*range(1000)], "beta": [*range(1000)], "theta": [*range(1000)]},
            "experiments.e.methods[0]",
        ),
        (("tasks", "t", "inputs"), ["text", "text"], "tasks.t"),
        (("tasks", "t", "label"), "text", "tasks.t"),
        (("results",), "a{b}", "results"),
        (("results",), "<study>", "results"),
        (("results",), "-x", "results"),
        (("results",), "~/results", "results"),
        (("results",), "r" * 300, "results"),
    ],
)
def test_a_value_that_fails_later_is_refused_with_its_key(tmp_path, place, value, key):
    study = copy.deepcopy(STUDY)
    inner = study
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    with pytest.raises(ConfigError) as found:
        make_plan(study, "my.yaml", tmp_path)
    sentence = found.value.problems[0]
    assert sentence.startswith(f"my.yaml: {key}: ")
    assert len(sentence) < 300
    assert not list(tmp_path.iterdir())


def test_the_study_without_such_a_value_is_planned(tmp_path):
    assert len(make_plan(STUDY, "my.yaml", tmp_path).runs) == 1


def test_a_decoder_needs_a_position_more_than_its_answer_has_tokens(tmp_path):
    study = STUDY | {"models": {"m": {"source": "random:bart", "config": {"max_position_embeddings": 16}}}}
    task = STUDY["tasks"]["t"] | {"kind": "summarization", "metric": "rouge1", "max_length": 16, "answer_length": 15}
    assert len(make_plan(study | {"tasks": {"t": task}}, "my.yaml", tmp_path).runs) == 1
    with pytest.raises(ConfigError, match=r"positions for 16 tokens, but the task 't' needs 17 \(answer_length\)"):
        make_plan(study | {"tasks": {"t": task | {"answer_length": 16}}}, "my.yaml", tmp_path)
