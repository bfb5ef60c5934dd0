"""Removal in slices: equal counts or multiples of a width, the weakest slices first, the budget met exactly."""

import json
import logging

import pytest
import torch

from helpers.loops import assert_no_hooks, make_run, make_trainer, train_bare
from helpers.models import each_model, make_model
from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.components.uniform_selection import choose_uniform, separate_groups, uniform_groups
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.plain_config import is_plain
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights, unit_size
from neuroprune.pruning.surgery import remove


def scores_of(blocks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {block: torch.rand(block.units, generator=generator) for block in blocks.all}


@each_model
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_all_layers_keep_the_same_number_and_the_target_is_exact(name, sparsity):
    model = make_model(name)
    method = NeuroPrune(sparsity=sparsity, layout="uniform")
    train_bare(method, model, name)
    total, blocks = prunable_weights(model), find_blocks(model)
    assert measure_sparsity(model).weights == round(sparsity * total) / total
    assert len({attention.heads for attention in blocks.attentions}) == 1
    for stack in ("encoder", "decoder"):
        assert len({mlp.width for mlp in blocks.mlps if stack in mlp.name}) <= 1
    assert method.report["layout"] == "uniform"


def test_the_trainer_saves_a_plain_model(tmp_path):
    model = make_model("llama")
    trainer = make_trainer(NeuroPrune(sparsity=0.5, layout="uniform"), model, tmp_path, name="llama")
    trainer.train()
    trainer.save_model(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["intermediate_size"] == find_blocks(model).mlps[0].width < 24


@pytest.mark.parametrize("multiple_of", [4, 8])
def test_the_width_is_a_multiple(multiple_of):
    model = make_model("qwen3", intermediate_size=30)
    train_bare(NeuroPrune(sparsity=0.4, layout="uniform", multiple_of=multiple_of), model, "qwen3")
    (width,) = {mlp.width for mlp in find_blocks(model).mlps}
    assert width < 30 and width % multiple_of == 0
    assert measure_sparsity(model).weights == pytest.approx(0.4, abs=1e-3)


def test_the_weakest_slices_go_first():
    """Neurons have four times the score per weight of heads, so that heads are removed first."""
    run = make_run(make_model("qwen3"), steps=1)
    scores = scores_of(run.blocks)
    for mlp in run.blocks.mlps:
        scores[mlp] += 1000
    groups = uniform_groups(run, 0.01, 1)
    heads = next(group for group in groups if group.shared.name == "num_attention_heads")
    size = (2 * 8 + 2 * 4) * 16 // 4 * 4  # of a key/value head with its two queries
    chosen = choose_uniform(groups, scores, room=4 * size)
    for attention in heads.shared.blocks:
        assert chosen[attention] == sorted(torch.argsort(scores[attention])[:2].tolist())
    assert all(chosen[mlp] == [] for mlp in run.blocks.mlps)


def test_slices_are_compared_by_their_score_per_weight():
    """A head has four times the score of a neuron, but eight times its weights."""
    run = make_run(make_model("qwen3"), steps=1)
    scores = {block: torch.full((block.units,), 4.0) for block in run.blocks.attentions}
    scores |= {mlp: torch.ones(mlp.units) for mlp in run.blocks.mlps}
    room = sum(unit_size(attention) for attention in run.blocks.attentions)
    chosen = choose_uniform(uniform_groups(run, 0.01, 1), scores, room)
    assert {block: len(units) for block, units in chosen.items() if units} == dict.fromkeys(run.blocks.attentions, 1)


def test_a_slice_that_does_not_fit_leaves_the_budget_to_smaller_ones():
    run = make_run(make_model("qwen3"), steps=1)
    scores = scores_of(run.blocks)
    for mlp in run.blocks.mlps:
        scores[mlp] += 1000
    neuron = 3 * 16 * 2
    chosen = choose_uniform(uniform_groups(run, 0.01, 1), scores, room=2 * neuron)
    assert all(chosen[attention] == [] for attention in run.blocks.attentions)
    assert [len(chosen[mlp]) for mlp in run.blocks.mlps] == [2, 2]


def test_heads_that_share_a_position_bias_are_chosen_together():
    """Summed over both layers of a stack, position 2 is the weakest, although it is strongest in the first."""
    run = make_run(make_model("t5"), steps=1)
    scores = {block: score + 1000 for block, score in scores_of(run.blocks).items()}
    selves = [attention for attention in run.blocks.attentions if not attention.cross]
    for attention, values in zip(selves, ([2, 2, 3, 3], [9, 9, 1, 9], [1, 2, 3, 4], [1, 2, 3, 4]), strict=True):
        scores[attention] = torch.tensor(values, dtype=torch.float32)
    chosen = choose_uniform(uniform_groups(run, 0.01, 1), scores, room=6 * 4 * 16 * 4)
    assert [chosen[attention] for attention in selves] == [[2], [2], [0], [0]]


def test_llama_keeps_numbers_of_heads_that_its_configuration_accepts():
    """LlamaConfig wants the width to be a multiple of the number of heads: of 8, 6, 4 and 2 not 6."""
    (heads, _) = uniform_groups(make_run(make_model("llama"), steps=1), 0.01, 1)
    assert heads.counts == (4, 2, 1)
    (heads, _) = uniform_groups(make_run(make_model("qwen3"), steps=1), 0.01, 1)
    assert heads.counts == (4, 3, 2, 1)


def test_a_model_whose_layers_differ_is_refused_at_the_start():
    model = make_model("llama")
    remove(model, {}, {0: [0]})
    with pytest.raises(UserError, match=r"layers have different neurons \(23, 24\); start from the dense model"):
        train_bare(NeuroPrune(sparsity=0.5, layout="uniform"), model, "llama")


@pytest.mark.parametrize(
    ("name", "cut", "says"),
    [
        ("bert", lambda model: remove(model, {0: [0], 1: [0]}), "attention.self was cut, and BertConfig has no sep"),
        ("t5", lambda model: remove(model, {}, dict.fromkeys(range(4), range(24))), "has no units left"),
        ("bert", lambda model: remove_hidden(model, torch.arange(12)), "its hidden dimension was cut"),
        ("llama", lambda model: remove(model, [[0, 1]] * 2), "not a multiple of the number of att"),
    ],
    ids=["heads", "empty", "hidden", "divisor"],
)
def test_cuts_that_the_configuration_cannot_describe_are_refused_at_the_start(name, cut, says):
    model = make_model(name)
    cut(model)
    method = NeuroPrune(sparsity=0.9, layout="uniform")
    with pytest.raises(UserError, match=rf"layout='uniform': start from the dense model, .*{says}"):
        method.start(make_run(model, steps=12))
    assert_no_hooks(model)


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_a_uniform_model_is_pruned_further(name):
    model = make_model(name)
    for sparsity in (0.3, 0.45):
        train_bare(NeuroPrune(sparsity=sparsity, layout="uniform"), model, name)
        assert is_plain(model)
        assert measure_sparsity(model).weights == pytest.approx(sparsity, abs=1e-3)


def test_much_left_to_zeros_is_said(caplog):
    """BERT's heads can't be removed, and its neurons are half of the weights here."""
    with caplog.at_level(logging.WARNING):
        train_bare(NeuroPrune(sparsity=0.8, layout="uniform"), make_model("bert"))
    assert "the rest up to 80.0 % are single zeros" in caplog.text


@pytest.mark.parametrize(("multiple_of", "says"), [(4, False), (64, True)])
def test_multiples_too_large_for_the_layers_are_said(multiple_of, says, caplog):
    """The MLPs have 24 neurons, and the heads that can be removed are a third of the weights."""
    train_bare(NeuroPrune(sparsity=0.5, multiple_of=multiple_of), make_model("bert"))
    text = f"multiple_of={multiple_of}: whole heads and neurons are "
    assert [message.startswith(text) for message in caplog.messages] == [True] * says
    assert all("the rest up to 50.0 % are single zeros" in message for message in caplog.messages)


@pytest.mark.parametrize("name", ["qwen3", "t5", "bert"])
@pytest.mark.parametrize("start", ["dense", "checkpoint"])
@pytest.mark.parametrize("step", [11, 14], ids=["between events", "after the last"])
def test_a_run_resumes_with_the_same_layout(name, start, step, tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": step, "name": name}
    whole, checkpoint = make_model(name), tmp_path / f"checkpoint-{step}"
    make_trainer(NeuroPrune(sparsity=0.5, layout="uniform"), whole, tmp_path, **arguments).train()
    again = make_model(name, seed=1) if start == "dense" else from_pretrained(checkpoint)
    trainer = make_trainer(NeuroPrune(sparsity=0.5, layout="uniform"), again, tmp_path, **arguments)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert is_plain(again) and again.config.to_dict() | {"_name_or_path": ""} == whole.config.to_dict()
    assert kept_units(again).heads == kept_units(whole).heads
    assert measure_sparsity(again) == measure_sparsity(whole)
    assert again.state_dict().keys() == whole.state_dict().keys()
    torch.testing.assert_close(again.state_dict(), whole.state_dict())


def test_checkpoints_are_plain_from_the_last_event_on(tmp_path):
    model = make_model("llama")
    method = NeuroPrune(sparsity=0.5, layout="uniform")
    make_trainer(method, model, tmp_path, name="llama", save_strategy="steps", save_steps=1).train()
    steps = [event["step"] for event in method.report["events"]]
    saved = {step: json.loads((tmp_path / f"checkpoint-{step}" / "config.json").read_text()) for step in steps}
    assert ["quantization_config" in saved[step] for step in steps] == [True, True, False]
    assert saved[steps[-1]]["intermediate_size"] == find_blocks(model).mlps[0].width < 24


def test_defaults_are_not_part_of_the_settings():
    """Settings from before `layout` existed keep their hash."""
    assert {"layout", "multiple_of"} & set(NeuroPruneSettings(sparsity=0.5).model_dump()) == set()
    given = NeuroPruneSettings(sparsity=0.5, layout="uniform", multiple_of=8).model_dump()
    assert (given["layout"], given["multiple_of"]) == ("uniform", 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"heads": 4, "layout": "uniform"},
        {"sparsity": 0.5, "heads": 4, "layout": "uniform"},
        {"alpha": 0.1, "layout": "uniform"},
        {"sparsity": 0.5, "algorithm": "penalties", "layout": "uniform"},
    ],
)
def test_what_does_not_go_with_it_is_refused(fields):
    with pytest.raises(ValueError, match="layout: uniform"):
        NeuroPruneSettings(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"heads": 4},
        {"sparsity": 0.5, "heads": 4},
        {"alpha": 0.1},
        {"speedup": 2},
        {"sparsity": 0.5, "algorithm": "penalties"},
    ],
)
def test_multiples_need_a_sparsity_alone(fields):
    with pytest.raises(ValueError, match="multiple_of"):
        NeuroPruneSettings(**fields, multiple_of=8)


@each_model
def test_widths_of_the_free_layout_are_multiples_and_the_target_is_exact(name, tmp_path):
    model = make_model(name)
    dense = {mlp.name: mlp.width for mlp in find_blocks(model).mlps}
    train_bare(NeuroPrune(sparsity=0.5, multiple_of=4), model, name)
    total, widths = prunable_weights(model), {mlp.name: mlp.width for mlp in find_blocks(model).mlps}
    assert widths != dense
    assert all(width % 4 == 0 or width == dense[mlp] for mlp, width in widths.items())
    assert measure_sparsity(model).weights == round(0.5 * total) / total
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert {mlp.name: mlp.width for mlp in find_blocks(again).mlps} == widths


def test_a_width_that_is_no_multiple_first_loses_its_remainder():
    model = make_model("bert", intermediate_size=30)
    run = make_run(model, steps=1)
    scores = scores_of(run.blocks)
    chosen = choose_uniform(separate_groups(run, 0.01, 8), scores, prunable_weights(model) // 2)
    for mlp in run.blocks.mlps:
        weakest = torch.argsort(scores[mlp]).tolist()
        assert chosen[mlp] == sorted(weakest[: len(chosen[mlp])])
        assert len(chosen[mlp]) in (0, 6, 14, 22)
