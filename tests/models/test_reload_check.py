"""A model that could not be reloaded is reported while it is still in memory."""

import copy
import logging

import pytest
import torch
import transformers
from torch import nn

from helpers.loops import train_bare
from helpers.models import VOCAB, each_model, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.models.reload_check import check_reloadable
from neuroprune.pruning.kept_units import read_record
from neuroprune.pruning.surgery import remove


def cut(name="bert"):
    model = make_model(name)
    remove(model, neurons={0: [1, 2, 3]})
    return model


@each_model
def test_models_cut_by_us_pass(name):
    check_reloadable(make_model(name))
    check_reloadable(cut(name))


def test_a_narrow_model_passes():
    from neuroprune.methods.cofi.method import CoFi

    model = make_model("bert")
    train_bare(CoFi(sparsity=0.6), model)
    assert "hidden" in read_record(model)
    check_reloadable(model)


def lose_the_record(model):
    del model.config.quantization_config


def other_layers(model):
    model.config.num_hidden_layers = 3


def cut_by_hand(model):
    dense = model.bert.encoder.layer[1].attention.output.dense
    model.bert.encoder.layer[1].attention.output.LayerNorm = nn.LayerNorm(8)
    assert dense.weight.shape[0] != 8


@pytest.mark.parametrize("change", [lose_the_record, other_layers, cut_by_hand])
def test_what_would_not_load_is_refused(change):
    model = cut()
    change(model)
    with pytest.raises(UserError, match=r"could be saved but not loaded again: bert\.encoder\.layer|units, but the"):
        check_reloadable(model)


def test_a_head_of_ones_own_is_a_warning(caplog):
    model = cut()
    model.classifier = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3))
    with caplog.at_level(logging.WARNING):
        check_reloadable(model)
    assert "classifier.0.weight" in caplog.text and "your own class" in caplog.text


def test_a_run_says_so_at_its_end():
    model, method = make_model("bert"), L1(sparsity=0.5)
    original = method.strategy.__class__.finish

    def finish(self, run):
        original(self, run)
        run.model.config.num_hidden_layers = 1

    method.make_strategy = lambda: type("Changed", (type(method.strategy),), {"finish": finish})(method.settings)
    with pytest.raises(UserError, match="could be saved but not loaded again"):
        train_bare(method, model)


class Wrapper(nn.Module):
    """A custom module around a transformers model, as advised by the error for unknown modules."""

    base_model_prefix = "body"

    def __init__(self, body, config):
        super().__init__()
        self.parts = nn.ModuleDict({"text": body})
        self.config, self.head = config, nn.Linear(16, 2)

    @property
    def body(self):
        return self.parts["text"]

    def forward(self, input_ids, attention_mask, labels):
        states = self.body(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states[-1]
        loss = nn.functional.cross_entropy(self.head(states[:, 0]), labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss)


class Around(transformers.BertPreTrainedModel):
    """A custom model class whose inner model has a separate configuration."""

    base_model_prefix = "inner"

    def __init__(self, config):
        super().__init__(config)
        self.inner, self.head = transformers.BertModel(copy.deepcopy(config)), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids, attention_mask, labels=None):
        scores = self.head(self.inner(input_ids, attention_mask=attention_mask)[0][:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(scores, labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=scores)


def base():
    return transformers.AutoModel.from_config(make_model("bert").config)


BODIES = {
    "one configuration": lambda: (body := base(), body.config),
    "a configuration each": lambda: (body := base(), copy.deepcopy(body.config)),
    "a body with a head": lambda: (body := make_model("bert"), copy.deepcopy(body.config)),
}


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_the_body_of_a_wrapper_is_loaded_again(make, tmp_path):
    body, config = make()
    wrapper = Wrapper(body, config)
    train_bare(NeuroPrune(sparsity=0.7), wrapper)
    assert set(read_record(wrapper)["heads"]) <= {f"encoder.layer.{i}.attention.self" for i in range(2)}
    save_pretrained(body, tmp_path)
    again = from_pretrained(tmp_path)
    assert all(value.equal(again.state_dict()[name]) for name, value in body.state_dict().items())


def test_a_class_of_ones_own_is_loaded_again_with_and_without_its_head(tmp_path):
    model = Around(make_model("bert").config)
    train_bare(NeuroPrune(sparsity=0.7), model)
    model.eval().save_pretrained(tmp_path / "whole")
    model.inner.save_pretrained(tmp_path / "inner")
    batch = make_batch()
    assert torch.equal(logits(Around.from_pretrained(tmp_path / "whole").eval(), batch), logits(model, batch))
    inner = from_pretrained(tmp_path / "inner")
    assert torch.equal(inner(**batch)[0], model.inner(**batch)[0])


@pytest.mark.parametrize("encoder_cut", [False, True])
@pytest.mark.parametrize("decoder_cut", [False, True])
def test_a_model_composed_of_cut_ones_is_loaded_again(encoder_cut, decoder_cut, tmp_path):
    for name, whether in (("encoder", encoder_cut), ("decoder", decoder_cut)):
        model = base()
        if whether:
            remove(model, {0: [1]}, {1: [2, 3]})
        save_pretrained(model, tmp_path / name)
    composed = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder"
    ).eval()
    composed.save_pretrained(tmp_path / "whole")
    tokens = torch.arange(3, 10)[None] % VOCAB
    expected = composed(input_ids=tokens, decoder_input_ids=tokens).logits
    loads = [from_pretrained] if encoder_cut and not decoder_cut else [from_pretrained, type(composed).from_pretrained]
    for load in loads:
        again = load(tmp_path / "whole").eval()
        assert torch.equal(again(input_ids=tokens, decoder_input_ids=tokens).logits, expected)
        again.save_pretrained(tmp_path / "again")
        twice = from_pretrained(tmp_path / "again")
        assert torch.equal(twice(input_ids=tokens, decoder_input_ids=tokens).logits, expected)
