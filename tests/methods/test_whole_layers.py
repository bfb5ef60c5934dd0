"""Whole attentions and MLPs go where `min_share` is 0, and methods train models that have lost some."""

import pytest
import torch

from helpers.loops import labelled_batch, make_run, make_trainer, train_bare
from helpers.models import ROWS, WIDTH, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods import DSP, L1, CoFi, Dense, NeuroPrune, RandomUnits, Taylor
from neuroprune.methods.components.latency import measure_table
from neuroprune.methods.components.unit_selection import fewest_units
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights
from neuroprune.pruning.surgery import remove

FAMILIES = ["bert", "gpt2", "llama", "t5", "bart", "modernbert"]


def units_left(model):
    return [block.units for block in find_blocks(model).all]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method_class", [NeuroPrune, Taylor, RandomUnits])
def test_layers_go_at_very_high_sparsity_if_they_may(method_class, name, tmp_path):
    model, total = make_model(name), prunable_weights(make_model(name))
    train_bare(method_class(sparsity=0.98, min_share=0), model, name, steps=6)
    assert units_left(model).count(0) > 0
    assert measure_sparsity(model).weights == round(0.98 * total) / total
    save_pretrained(model.eval(), tmp_path)
    batch = labelled_batch(name, seed=3)
    with torch.no_grad():
        assert from_pretrained(tmp_path)(**batch).loss.equal(model(**batch).loss)


@pytest.mark.parametrize("method", [NeuroPrune(sparsity=0.95), Taylor(sparsity=0.95), RandomUnits(sparsity=0.95)])
def test_every_layer_keeps_a_unit_otherwise(method):
    model = make_model("bert")
    train_bare(method, model, steps=6)
    assert min(units_left(model)) > 0


def test_the_fewest_units_are_none_only_if_min_share_is_zero():
    run = make_run(make_model("bert"), steps=2)
    assert set(fewest_units(run, 0.0).values()) == {0}
    assert sorted(set(fewest_units(run, 1e-9).values())) == [1]
    assert fewest_units(run, 0.5)[run.blocks.mlps[0]] == WIDTH // 2


def test_the_uniform_layout_keeps_a_unit_everywhere():
    model = make_model("llama")
    train_bare(NeuroPrune(sparsity=0.98, layout="uniform", min_share=0), model, "llama", steps=6)
    assert min(units_left(model)) == 1


def test_widths_in_multiples_may_be_none():
    model = make_model("bert")
    train_bare(NeuroPrune(sparsity=0.98, multiple_of=8, min_share=0), model, steps=6)
    assert 0 in [mlp.width for mlp in find_blocks(model).mlps]
    assert {mlp.width % 8 for mlp in find_blocks(model).mlps} == {0}


def test_a_number_of_heads_below_one_for_each_attention():
    model = make_model("bert")
    train_bare(NeuroPrune(heads=1, min_share=0), model, steps=6)
    assert sorted(attention.heads for attention in find_blocks(model).attentions) == [0, 1]
    with pytest.raises(UserError, match="at least one unless min_share is 0; choose a number from 2 to 8"):
        train_bare(NeuroPrune(heads=1), make_model("bert"), steps=6)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_penalties_empty_layers_if_they_may(mode):
    model = make_model("bert")
    train_bare(NeuroPrune(alpha=50.0, beta=50.0, mode=mode, eps=0.5, min_share=0), model, steps=8, lr=1e-2)
    assert units_left(model).count(0) > 0


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("step", [10, 20])  # between events; after the last
def test_training_resumes_from_a_checkpoint_without_some_layers(name, step, tmp_path):
    models = []
    for resume in (None, str(tmp_path / f"checkpoint-{step}")):
        model, method = make_model(name), NeuroPrune(sparsity=0.98, min_share=0, calibration_rows=8)
        make_trainer(method, model, tmp_path, name=name, save_strategy="steps", save_steps=10).train(
            resume_from_checkpoint=resume
        )
        models.append(model)
    assert units_left(models[0]) == units_left(models[1]) and 0 in units_left(models[0])
    for found, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_times_without_units_are_part_of_the_prediction():
    model, batch = make_model("bert"), make_batch("bert")
    blocks = find_blocks(model)
    table = measure_table(model, blocks, batch, least=0)
    assert [units for units, _ in table.attention] == [0, 2, 4] and table.mlp[0][0] == 0
    assert [units for units, _ in measure_table(model, blocks, batch).attention] == [1, 2, 4]


METHODS = {
    "dense": Dense(),
    "connectivity": NeuroPrune(sparsity=0.8, calibration_rows=8),
    "unfolded": NeuroPrune(sparsity=0.8, calibration_rows=8, fold=False),
    "emptying": NeuroPrune(sparsity=0.98, calibration_rows=8, min_share=0),
    "taught": NeuroPrune(sparsity=0.8, calibration_rows=8, teacher="run"),
    "heads": NeuroPrune(heads=4, min_share=0),
    "penalties": NeuroPrune(alpha=0.1, beta=0.1, theta=0.2),
    "decoupled": NeuroPrune(alpha=0.1, beta=0.1, theta=0.2, mode="decoupled"),
    "regulated": NeuroPrune(algorithm="penalties", sparsity=0.8, alpha=0.1, beta=0.1),
    "taylor": Taylor(sparsity=0.8),
    "random": RandomUnits(sparsity=0.8),
    "magnitude": L1(sparsity=0.8),
    "l1": L1(strength=0.1),
    "dsp": DSP(heads=2),
    "cofi": CoFi(sparsity=0.8),
}


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_train_a_model_that_has_lost_blocks(method, name):
    model = make_model(name)
    remove(model, {0: range(ROWS[name].heads)}, {ROWS[name].mlps - 1: range(WIDTH)})
    train_bare(METHODS[method], model, name, steps=8)
    blocks = find_blocks(model)
    assert blocks.attentions[0].heads == 0 and blocks.mlps[-1].width == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())
