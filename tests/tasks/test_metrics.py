"""Metrics: the hub's keys and scikit-learn's values."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from neuroprune import tasks
from neuroprune.config.fields import KIND_METRICS
from neuroprune.config.settings import TaskSettings
from neuroprune.tasks.metrics import CORRELATIONS, METRICS, judge
from neuroprune.tasks.text_metrics import ROUGE

REFERENCE = {"accuracy": accuracy_score, "f1": f1_score, "matthews_correlation": matthews_corrcoef}


def test_every_metric_that_a_task_may_name_is_there():
    judged = {*METRICS, "token_accuracy", "macro_f1", "exact_match", *CORRELATIONS, *ROUGE, "bleu"}
    assert set(TaskSettings.model_fields["metric"].annotation.__args__) == judged
    assert {name for names in KIND_METRICS.values() for name in names} == judged


DEFAULTS = {"classification": "accuracy", "language_modeling": "token_accuracy", "question_answering": "f1"}
DEFAULTS |= {"regression": "spearmanr", "summarization": "rougeLsum", "token_classification": "token_accuracy"}
DEFAULTS |= {"translation": "bleu"}


@pytest.mark.parametrize("kind", KIND_METRICS)
def test_each_kind_has_a_default(kind):
    inputs = ["question", "context"] if kind == "question_answering" else ["text"]
    assert TaskSettings(name="t", kind=kind, source="demo", inputs=inputs).metric == DEFAULTS[kind]
    assert TaskSettings(name="t", kind=kind, source="demo", inputs=inputs, metric=KIND_METRICS[kind][-1])


@pytest.mark.parametrize("name", METRICS)
def test_values_are_scikit_learn_s(name):
    draw = np.random.RandomState(3)
    truth, answers = draw.randint(0, 2, 200), draw.randint(0, 2, 200)
    assert judge([name], answers, truth) == {name: pytest.approx(REFERENCE[name](truth, answers))}


def test_values_by_hand():
    # right: 3 of 5. Class 1: 2 hits, 1 false alarm, 1 miss. Matthews: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2)
    values = judge(list(METRICS), [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert values == pytest.approx({"accuracy": 0.6, "f1": 2 / 3, "matthews_correlation": 1 / 6})


def test_the_majority_s_value_is_that_of_a_constant_answer():
    for labels in ([1, 1, 0, 1], [0, 0, 1], [0, 1]):
        constant = [max(sorted(set(labels)), key=labels.count)] * len(labels)
        for name in METRICS:
            assert tasks.majority(labels, name) == pytest.approx(judge([name], constant, labels)[name])
    labels = [1, 1, 0, 1]
    assert tasks.majority(labels) == 0.75
    assert tasks.majority(labels, "f1") == pytest.approx(6 / 7)
    assert tasks.majority(labels, "matthews_correlation") == 0.0
    assert tasks.majority([0, 0, 1], "f1") == 0.0
    assert tasks.majority([2, 0, 2]) == pytest.approx(2 / 3)
