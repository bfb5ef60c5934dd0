"""Modules around a transformers model: sentence-transformers' trainers, and custom wrappers."""

import copy
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.models import Pooling, Transformer
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from torch import nn
from transformers import BertConfig, BertModel

from helpers.data import sentence
from helpers.loops import labelled_batch, make_run
from helpers.models import make_batch, make_model
from neuroprune import DSP, L1, CoFi, NeuroPrune, Run, Taylor, find_blocks, measure_sparsity, remove
from neuroprune.errors import UserError
from neuroprune.methods.components.direct_calls import HookedForward
from neuroprune.models.sources import train_tokenizer

TEXTS = [sentence(7 * i)[: 10 + i] for i in range(24)]  # of many lengths, so that there is padding
METHODS = {
    "NeuroPrune": lambda: NeuroPrune(sparsity=0.5, calibration_rows=16),
    "penalties": lambda: NeuroPrune(sparsity=0.5, algorithm="penalties"),
    "L1": lambda: L1(sparsity=0.5),
    "Taylor": lambda: Taylor(sparsity=0.5),
    "DSP": lambda: DSP(heads=4),
    "CoFi": lambda: CoFi(sparsity=0.5),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny BERT with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(TEXTS, 60)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def embedder(base):
    torch.manual_seed(0)
    return SentenceTransformer(
        modules=[body := Transformer(base), Pooling(body.get_embedding_dimension())], device="cpu"
    )


def scorer(base):
    torch.manual_seed(0)
    return CrossEncoder(base, num_labels=1, device="cpu")


def rows():
    return Dataset.from_list(
        [{"sentence1": TEXTS[i], "sentence2": TEXTS[(5 * i + 1) % 24], "label": float(i % 6) / 5} for i in range(24)]
    )


def trainer(model, method, folder, loss=None, **arguments):
    """The trainer of an embedding model or a cross-encoder, with 12 steps of four pairs."""
    crosses = isinstance(model, CrossEncoder)
    kind, settings_class = SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    if crosses:
        kind, settings_class = CrossEncoderTrainer, CrossEncoderTrainingArguments
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    chosen = BinaryCrossEntropyLoss(model) if crosses else (loss or CosineSimilarityLoss)(model)
    made = settings_class(**(settings | arguments))
    return kind(model, made, train_dataset=rows(), loss=chosen, callbacks=[method])


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("kind", [embedder, scorer])
def test_every_method_prunes_and_the_model_is_loaded_again(kind, make, base, tmp_path):
    model, method = kind(base), make()
    trainer(model, method, tmp_path / "out").train()
    body = model[0].auto_model
    assert measure_sparsity(model) == measure_sparsity(body)
    assert measure_sparsity(body).weights == pytest.approx(0.25 if isinstance(method, DSP) else 0.5, abs=0.01)
    assert "forward" not in vars(body) and not body._forward_pre_hooks
    model.save_pretrained(str(tmp_path / "small"))
    again = type(model)(str(tmp_path / "small"), device="cpu")
    ask = (lambda m: m.predict([(TEXTS[0], TEXTS[1])])) if kind is scorer else (lambda m: m.encode(TEXTS[:3]))
    assert np.array_equal(ask(model), ask(again))
    assert measure_sparsity(again) == measure_sparsity(model)


def test_a_fresh_process_gives_the_same_embeddings(base, tmp_path):
    model = embedder(base)
    trainer(model, METHODS["NeuroPrune"](), tmp_path / "out").train()
    model.save_pretrained(str(tmp_path / "small"))
    np.save(tmp_path / "here.npy", model.encode(TEXTS[:4]))
    program = (
        "import sys, numpy, neuroprune, sentence_transformers as s\n"
        "found = s.SentenceTransformer(sys.argv[1] + '/small', device='cpu').encode(sys.argv[2:])\n"
        "assert numpy.array_equal(found, numpy.load(sys.argv[1] + '/here.npy'))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), *TEXTS[:4]], check=True)


def test_a_dense_embedding_model_goes_on_from_a_checkpoint_of_a_cut_one(base, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 8}
    whole = embedder(base)
    trainer(whole, METHODS["NeuroPrune"](), tmp_path, **saving).train()
    resumed = embedder(base)
    trainer(resumed, METHODS["NeuroPrune"](), tmp_path, **saving).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-8")
    )
    assert np.array_equal(whole.encode(TEXTS[:3]), resumed.encode(TEXTS[:3]))


def test_a_loss_that_compares_the_rows_of_a_batch(base, tmp_path):
    model = embedder(base)
    data = trainer(model, METHODS["NeuroPrune"](), tmp_path, loss=MultipleNegativesRankingLoss)
    data.train_dataset = data.train_dataset.remove_columns("label")
    data.train()
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=0.01)


def test_padding_is_left_out_where_forward_is_called_directly(base, tmp_path):
    """With the same texts and more padding, the cut and the fold must not change."""
    found = []
    for pad in (0, 20):
        model = embedder(base)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        original = model.preprocess
        model.preprocess = lambda *a, original=original, pad=pad, **k: _padded(original(*a, **k), pad)
        work = trainer(model, METHODS["NeuroPrune"](), tmp_path / str(pad), lr_scheduler_type="constant")
        work.train()
        found.append([value.detach() for value in model[0].auto_model.encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def _padded(features, pad):
    return {
        name: nn.functional.pad(value, (0, pad)) if isinstance(value, torch.Tensor) and value.dim() == 2 else value
        for name, value in features.items()
    }


# ---- custom modules


class Pair(nn.Module):
    """Two heads on one body with a custom call, without config and prefix."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"text": make_model("bert").bert})
        self.heads = nn.ModuleList([nn.Linear(16, 2), nn.Linear(16, 3)])

    def forward(self, input_ids, attention_mask, labels=None):
        states = self.parts["text"].forward(input_ids, attention_mask=attention_mask)[0][:, 0]
        losses = [nn.functional.cross_entropy(head(states), labels) for head in self.heads]
        return type("Output", (), {"loss": sum(losses)})


class Named(Pair):
    """The same beside another model, so that the class names the one to prune."""

    base_model_prefix = "body"

    def __init__(self):
        super().__init__()
        self.body, self.other = self.parts["text"], make_model("bert").bert


def train(model, method):
    """Train a module 12 steps with a method; return the run."""
    run = make_run(model.train(), 12)
    method.start(run)
    while run.step < 12:
        model(**labelled_batch("bert", seed=run.step)).loss.backward()
        method.before_step(run)
        run.optimizer.step()
        run.step += 1
        method.after_step(run)
        run.scheduler.step()
        run.optimizer.zero_grad()
    method.finish(run)
    return run


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_module_without_a_config_is_pruned_by_its_only_model(make):
    model = Pair()
    run = train(model, make())
    assert run.model is model.parts["text"] and run.wrapped
    assert find_blocks(model).attentions[0].name == "parts.text.encoder.layer.0.attention.self"
    assert measure_sparsity(model).weights > 0.2


UNIFORM = {"uniform": lambda: NeuroPrune(sparsity=0.5, layout="uniform"), "speedup": lambda: NeuroPrune(speedup=1.05)}


@pytest.mark.parametrize("make", (METHODS | UNIFORM).values(), ids=METHODS | UNIFORM)
def test_a_module_without_a_config_is_pruned_by_the_model_that_its_class_names(make):
    model = Named()
    train(model, make())
    assert measure_sparsity(model).weights == measure_sparsity(model.body).weights > 0.01
    assert measure_sparsity(model.other).weights == 0


def test_a_module_around_two_models_is_told_to_name_one():
    model = Pair()
    model.other = make_model("bert").bert
    with pytest.raises(UserError, match=r"Pair contains several .*\(parts\.text, other\); set base_model_prefix"):
        find_blocks(model)
    model.__class__ = type("Named", (Pair,), {"base_model_prefix": "other"})
    assert find_blocks(model).attentions[0].name == "other.encoder.layer.0.attention.self"


def test_parallel_wrappers_are_not_looked_into():
    model = nn.DataParallel(make_model("bert"))
    with pytest.raises(UserError, match=r"DataParallel can't follow.*train the model inside"):
        find_blocks(model)
    assert Run(model, torch.optim.SGD(model.parameters()), total_steps=1).model is model


def test_the_body_of_a_wrapper_is_cut_by_hand():
    model = Pair()
    remove(model, {0: [1]})
    assert "encoder.layer.0.attention.self" in model.parts["text"].config.quantization_config["heads"]


# ---- direct calls


def test_a_direct_call_runs_the_hooks_once_and_keeps_its_signature():
    model, calls = make_model("bert").eval(), []
    model.register_forward_pre_hook(lambda module, args: calls.append(module))
    wanted, signature = model(**make_batch()).logits, inspect.signature(model.forward)
    shim = HookedForward(model)
    calls.clear()
    assert model.forward(**make_batch()).logits.equal(wanted) and calls == [model]
    assert model(**make_batch()).logits.equal(wanted) and calls == [model, model]
    assert inspect.signature(model.forward) == signature
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.classifier.weight.zero_()
    assert not twin.forward(**make_batch()).logits.equal(wanted)
    assert model.forward(**make_batch()).logits.equal(wanted)
    shim.detach()
    calls.clear()
    model.forward(**make_batch())
    assert not calls and "forward" not in vars(model)


def test_a_forward_that_was_replaced_already_is_kept():
    model, seen = make_model("bert").eval(), []
    original = model.forward
    model.forward = lambda *args, **kwargs: (seen.append(1), original(*args, **kwargs))[1]
    replaced = model.forward
    shim = HookedForward(model)
    model.forward(**make_batch())
    assert seen == [1]
    shim.detach()
    assert model.forward is replaced
