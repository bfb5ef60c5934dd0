"""Linear probing: golden values of scikit-learn, every architecture, and unchanged random numbers of training."""

import pytest
import torch
import transformers
from sklearn.linear_model import LogisticRegression, Ridge

from helpers.loops import make_trainer, train_bare
from helpers.models import ROWS, VOCAB, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods import L1, NeuroPrune
from neuroprune.methods.linear_probe import L2, LinearProbe, fit, fit_head, head_layer
from neuroprune.pruning.sparsity import measure_sparsity

HEADED = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "electra": "ElectraForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "bart": "BartForSequenceClassification",
    "t5": "T5ForSequenceClassification",
    "opt": "OPTForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
}


def headed(name, kind=None, **changes):
    row = ROWS[name]
    values = row.values | {"num_labels": 3} | changes
    values |= {"eos_token_id": 2} if name in ("t5", "bart") else {}
    torch.manual_seed(0)
    config = getattr(transformers, row.config)(vocab_size=VOCAB, **values)
    return getattr(transformers, kind or HEADED[name])(config)


def batches(name, count=6, labels=None):
    for seed in range(count):
        batch = make_batch(name, rows=5, seed=seed)
        batch.pop("decoder_input_ids", None)
        if name in ("t5", "bart"):  # their heads read the end of the text
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == 2, 3)
            batch["input_ids"][:, 0] = 2
        yield batch | {"labels": batch["input_ids"][:, 1] % 3 if labels is None else labels(batch)}


def features(count=60, width=5):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=generator)
    return x, (x @ torch.randn(width, 3, generator=generator) + 0.5 * torch.randn(count, 3, generator=generator))


@pytest.mark.parametrize("with_bias", [True, False])
def test_classes_are_those_of_scikit_learn(with_bias):
    x, scores = features()
    y = scores.argmax(1)
    weight, bias = fit(x, y, "classes", 3, with_bias)
    golden = LogisticRegression(C=1 / (L2 * len(x)), fit_intercept=with_bias, tol=1e-10, max_iter=5000).fit(x, y)
    torch.testing.assert_close(weight, torch.from_numpy(golden.coef_), atol=1e-4, rtol=1e-3)
    if with_bias:
        expected = torch.from_numpy(golden.intercept_)
        torch.testing.assert_close(bias - bias.mean(), expected - expected.mean(), atol=1e-4, rtol=1e-3)
    assert (bias is None) == (not with_bias)


def test_two_classes_and_labels_of_their_own_are_those_of_scikit_learn():
    x, scores = features()
    y = (scores[:, 0] > 0).long()
    weight, bias = fit(x, y, "classes", 2, with_bias=True)
    half = LogisticRegression(C=2 / (L2 * len(x)), tol=1e-10, max_iter=5000).fit(x, y)
    expected = torch.from_numpy(half.decision_function(x))
    torch.testing.assert_close(x.double() @ (weight[1] - weight[0]) + bias[1] - bias[0], expected, atol=1e-4, rtol=1e-3)
    weight, bias = fit(x, (scores > 0).float(), "labels", 3, with_bias=True)
    for i in range(3):
        golden = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-10, max_iter=5000).fit(x, scores[:, i] > 0)
        torch.testing.assert_close(weight[i], torch.from_numpy(golden.coef_[0]), atol=1e-4, rtol=1e-3)
        assert float(bias[i]) == pytest.approx(float(golden.intercept_[0]), abs=1e-4)


def test_numbers_are_those_of_scikit_learn():
    x, scores = features()
    for y in (scores[:, 0], scores):
        weight, bias = fit(x, y, "numbers", 1, with_bias=True)
        golden = Ridge(alpha=L2 * len(x)).fit(x.double(), y.double().reshape(len(x), -1))
        torch.testing.assert_close(weight, torch.from_numpy(golden.coef_.reshape(weight.shape)))
        torch.testing.assert_close(bias, torch.from_numpy(golden.intercept_.reshape(bias.shape)))


@pytest.mark.parametrize("name", HEADED)
def test_every_architecture_with_a_head(name):
    model = headed(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, (head, layer) = torch.get_rng_state(), head_layer(model)
    fit_head(model, batches(name))
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert not layer._forward_hooks
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{head}.{key}" for key in layer.state_dict()}
    losses = []
    for weights in (before, model.state_dict()):
        other = headed(name).eval()
        other.load_state_dict(weights)
        with torch.no_grad():
            losses.append(sum(float(other(**batch).loss) for batch in batches(name)) / 6)
    assert losses[1] < losses[0]


def test_only_as_many_rows_are_read_as_are_wanted():
    read = []

    def counted():
        for batch in batches("bert", 6):
            read.append(len(batch["labels"]))
            yield batch

    fit_head(headed("bert"), counted(), rows=12)
    assert read == [5, 5, 5]


def test_tokens_are_fitted_where_they_have_labels():
    model = headed("bert", "BertForTokenClassification").eval()

    def labels(batch):
        return (batch["input_ids"] % 3).masked_fill(batch["attention_mask"] == 0, -100)

    fit_head(model, batches("bert", labels=labels))
    batch = next(batches("bert", labels=labels))
    real = batch["labels"] != -100
    assert (model(**batch).logits.argmax(-1) == batch["labels"])[real].float().mean() > 0.5


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_numbers_get_a_regression(name):
    model = headed(name, num_labels=1).eval()
    fit_head(model, batches(name, labels=lambda batch: batch["input_ids"][:, 1].float() / 10 + 40))
    found = torch.cat([model(**batch).logits[:, 0] for batch in batches(name)])
    assert found.mean().item() == pytest.approx(45, abs=3 if name == "bert" else 45)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", None])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_several_labels_per_row_get_a_logistic_regression_each(name, problem_type):
    def labels(batch):
        return torch.stack([batch["input_ids"].amax(1) > limit for limit in (80, 90, 95)], dim=1).float()

    heads = [headed(name, problem_type=kind) for kind in (problem_type, "multi_label_classification")]
    for model in heads:
        fit_head(model, batches(name, labels=labels))
    assert torch.equal(*(head_layer(model)[1].weight for model in heads))
    batch = next(batches(name, labels=labels))
    heads[0](**batch)
    assert heads[0].config.problem_type == "multi_label_classification"  # as transformers reads these labels


@pytest.mark.parametrize("name", ["t5", "marian", "opt", "bart"])
def test_answers_that_are_text_are_refused(name):
    with pytest.raises(UserError, match=r"no linear head for .* leave linear_probe out"):
        head_layer(make_model(name))


def test_what_cannot_be_fitted_is_told():
    with pytest.raises(UserError, match="no labels"):
        fit_head(headed("bert"), [make_batch()])
    choices = headed("bert", "BertForMultipleChoice", num_labels=1)
    batch = {"input_ids": torch.ones(2, 3, 4, dtype=torch.long), "labels": torch.tensor([0, 1])}
    with pytest.raises(UserError, match="6 rows, but there are 2 labels"):
        fit_head(choices, [batch])


@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(sparsity=0.5)])
def test_the_trainer_hands_its_own_batches_over(method, tmp_path):
    model = make_model("bert")
    trainer = make_trainer(method, model, tmp_path, save_strategy="steps", save_steps=8)
    seen = []

    class See(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 0:
                seen.append(model.classifier.weight.detach().clone())

    first = model.classifier.weight.detach().clone()
    trainer.add_callback(LinearProbe(rows=20))
    trainer.add_callback(See())
    trainer.train()
    assert not torch.equal(seen[0], first)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_a_loop_of_ones_own_fits_first():
    model = make_model("bert")
    fit_head(model, ({**make_batch(rows=4, seed=i), "labels": torch.tensor([0, 1, 0, 1])} for i in range(3)))
    train_bare(L1(sparsity=0.5), model)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)
