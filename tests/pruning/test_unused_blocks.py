"""Unused attentions and MLPs are left out, or rejected before any removal."""

import pytest
import torch
import transformers

from helpers.loops import labelled_batch, make_run, take_step
from helpers.models import ROWS, logits, make_model
from neuroprune.errors import UserError
from neuroprune.methods import L1, NeuroPrune, Taylor
from neuroprune.models import pretrained
from neuroprune.models.export.full import full_size
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove


def decoder_alone(name="bart", **changes):
    """Return an encoder-decoder's decoder as a language model, with cross-attentions that are never executed."""
    row = ROWS[name]
    classes = {"bart": "BartForCausalLM", "marian": "MarianForCausalLM"}
    torch.manual_seed(0)
    config = getattr(transformers, row.config)(vocab_size=99, **row.values, **changes)
    return getattr(transformers, classes[name])(config)


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_cross_attentions_of_a_decoder_without_an_encoder_are_left_out(name):
    model = decoder_alone(name)
    assert len(find_blocks(model).attentions) == 2
    assert [a.cross for a in find_blocks(model, unused=True).attentions] == [False, True, False, True]
    model.config.add_cross_attention = True  # as in an EncoderDecoderModel
    assert len(find_blocks(model).attentions) == 4


@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(sparsity=0.5), Taylor(sparsity=0.5)])
def test_a_decoder_alone_loses_nothing_where_it_never_looks(method):
    model = decoder_alone()
    run = make_run(model.train(), steps=6)
    method.start(run)
    while run.step < 6:
        take_step(method, run, "gpt2")
    method.finish(run)
    unused = [a for a in find_blocks(model, unused=True).attentions if a.cross]
    assert all(projection.weight.all() for a in unused for projection in (*a.inputs, a.output))
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_a_decoder_cut_with_its_encoder_loads_alone(tmp_path):
    whole = make_model("bart")
    remove(whole, {2: [0], 3: [1, 2]}, {3: [4]})  # self-attention and cross-attention of the first decoder layer
    pretrained.save_pretrained(whole, tmp_path)
    alone = transformers.BartForCausalLM.from_pretrained(tmp_path)
    assert [a.heads for a in find_blocks(alone, unused=True).attentions] == [3, 2, 4, 4]
    remove(alone, {1: [3]})
    assert kept_units(alone, unused=True).heads == [[1, 2, 3], [0, 3], [0, 1, 2], [0, 1, 2, 3]]
    pretrained.save_pretrained(alone, tmp_path / "alone")
    again = pretrained.from_pretrained(tmp_path / "alone")
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert torch.equal(logits(again, batch), logits(alone, batch))
    torch.testing.assert_close(logits(full_size(again), batch), logits(alone, batch))


def without_encoder():
    return make_model("bert-decoder"), "gpt2"


def without_the_last_layer():
    model = make_model("llama")
    model.config.num_hidden_layers = 1
    return model, "llama"


def frozen_classes():
    model = make_model("bert")
    model.forward = lambda **batch: model.classifier(model.bert.embeddings(batch["input_ids"])[:, 0]).sum().reshape(1)
    return model, "bert"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (without_encoder, r"bert\.encoder\.layer\.0\.crossattention\.self and 1 more"),
        (without_the_last_layer, r"model\.layers\.1\.self_attn and 1 more"),
        (frozen_classes, r"bert\.encoder\.layer\.0\.attention\.self and 3 more"),
    ],
)
@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(sparsity=0.5), Taylor(sparsity=0.5)])
def test_what_does_not_run_is_refused_in_the_first_step(method, make, name):
    model, kind = make()
    run = make_run(model.train(), steps=40)
    method.start(run)
    batch = labelled_batch(kind, seed=0)
    out = model(**batch)
    getattr(out, "loss", out).sum().backward()
    with pytest.raises(UserError, match=f"no gradient reached {name} in the first step.*num_hidden_layers"):
        method.before_step(run)


@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(sparsity=0.5), Taylor(sparsity=0.5)])
def test_a_layer_that_a_step_skips_at_random_is_not_taken_for_unused(method):
    model = make_model("opt", layerdrop=0.5)
    run = make_run(model.train(), steps=8)
    method.start(run)
    while run.step < 8:
        take_step(method, run, "opt")
    method.finish(run)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)
