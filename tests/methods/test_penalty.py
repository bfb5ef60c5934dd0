"""The penalty form: steps of the paper's loss, merging of redundant heads, removal of empty units."""

import json

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR
from transformers.optimization import Adafactor

from helpers.loops import assert_optimizer_fits, labelled_batch, make_run, make_trainer, take_step, train_bare, weights
from helpers.models import each_model, make_alike, make_model
from neuroprune.errors import UserError
from neuroprune.methods.hooks import Run
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.pruning import penalties
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity, prunable_projections
from neuroprune.pruning.surgery import kept_units, remove


@pytest.mark.parametrize("name", ["bert", "t5", "t5-gated", "opt", "gpt2", "llama"])
def test_a_coupled_step_is_that_of_the_papers_loss(name):
    models = [make_model(name), make_model(name)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    batch = labelled_batch(name, seed=0)
    blocks = find_blocks(models[0])
    loss = models[0](**batch).loss + 0.01 * sum(map(penalties.mlp_penalty, blocks.mlps))
    (loss + 0.02 * sum(map(penalties.attention_penalty, blocks.attentions))).backward()
    optimizers[0].step()
    method, run = NeuroPrune(alpha=0.01, beta=0.02), Run(models[1], optimizers[1], total_steps=1)
    method.start(run)
    models[1](**batch).loss.backward()
    method.before_step(run)
    optimizers[1].step()
    run.step = 1
    method.after_step(run)
    for expected, got in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_a_coupled_l1_step_is_that_of_the_loss_with_the_norm():
    models = [make_model("bert"), make_model("bert")]
    sum(
        0.3 * weight.abs().sum() for weight in (p.weight for p in prunable_projections(find_blocks(models[0])))
    ).backward()
    run = Run(models[1], torch.optim.SGD(models[1].parameters(), lr=0.1), total_steps=1)
    for parameter in models[1].parameters():
        parameter.grad = torch.zeros_like(parameter)
    method = L1(strength=0.3)
    method.start(run)
    method.before_step(run)
    for expected, got in zip(*(prunable_projections(find_blocks(model)) for model in models), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


def test_a_decoupled_step_follows_the_present_learning_rate():
    for rate in (0.0, 0.5):
        model, twin = make_model("bert"), make_model("bert")
        run = Run(model, torch.optim.SGD(model.parameters(), lr=rate), total_steps=1)
        method = NeuroPrune(alpha=0.1, beta=0.2, mode="decoupled")
        method.start(run)
        method.before_step(run)
        run.step = 1
        method.after_step(run)
        for mlp in find_blocks(twin).mlps:
            penalties.shrink_mlp(mlp, rate * 0.1)
        for attention in find_blocks(twin).attentions:
            penalties.shrink_attention(attention, rate * 0.2)
        for expected, got in zip(twin.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("fields", [{"alpha": 0.1, "beta": 0.2}, {"strength": 0.1}], ids=["neuroprune", "l1"])
def test_a_decoupled_step_follows_each_groups_rate(fields):
    model = make_model("bert")
    projections = prunable_projections(find_blocks(model))
    fast, frozen = projections[1].parameter, model.get_input_embeddings().weight.requires_grad_(False)
    before = [projection.weight.clone() for projection in projections]
    others = [parameter for parameter in model.parameters() if parameter is not fast]
    groups = [{"params": [fast], "lr": 1.0}, {"params": others, "lr": 0.0}]
    run = Run(model, torch.optim.SGD(groups), total_steps=1)
    method = (L1 if "strength" in fields else NeuroPrune)(mode="decoupled", **fields)
    method.start(run)
    method.before_step(run)
    run.step = 1
    method.after_step(run)
    moved = [not torch.equal(*pair) for pair in zip(before, [p.weight for p in projections], strict=True)]
    assert moved == [False, True] + [False] * (len(projections) - 2)
    assert run.learning_rates().keys() == {*model.parameters()} - {frozen}


@pytest.mark.parametrize("fields", [{"alpha": 0.1, "mode": "decoupled"}, {"sparsity": 0.5, "algorithm": "penalties"}])
def test_penalties_that_need_a_rate_refuse_an_optimizer_without_one(fields):
    model = make_model("bert")
    run = Run(model, Adafactor(model.parameters()), total_steps=4)
    with pytest.raises(UserError, match="Adafactor has none"):
        NeuroPrune(**fields).start(run)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: OneCycleLR(optimizer, max_lr=1e-2, total_steps=20),
        lambda optimizer: CyclicLR(optimizer, base_lr=1e-4, max_lr=1e-2, cycle_momentum=False),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
def test_a_cyclic_schedule_has_its_peak_at_the_largest_rate(schedule):
    model = make_model("bert")
    optimizer = AdamW(model.parameters(), lr=1e-3)
    run = Run(model, optimizer, schedule(optimizer), total_steps=20)
    assert set(run.peak_rates().values()) == {1e-2} and run.learning_rates() != run.peak_rates()


def test_fixed_penalties_keep_their_plan_if_the_length_changes():
    model, method = make_model("bert"), NeuroPrune(alpha=0.1, penalty_start=0.5)
    run = make_run(model, steps=8)
    method.start(run)
    again, longer = NeuroPrune(alpha=0.1, penalty_start=0.5), make_run(model, steps=16)
    longer.step = 5
    again.resume(longer, method.state_dict())
    assert [again.strategy.begun(longer, step) for step in (3, 4, 5, 8)] == [False, True, True, True]


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_connections_are_counted_by_the_eps_and_the_degree_weight_of_the_settings(mode):
    model, twin = make_model("bert"), make_model("bert")
    for parameter in (*model.parameters(), *twin.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=1.0), total_steps=1)
    method = NeuroPrune(alpha=0.1, eps=0.3, degree_weight="missing", mode=mode)
    method.start(run)
    method.before_step(run)
    run.step = 1
    method.after_step(run)
    add = penalties.add_mlp_gradient if mode == "coupled" else penalties.shrink_mlp
    for mlp in find_blocks(twin).mlps:
        add(mlp, 0.1, eps=0.3, degree_weight="missing")
    for expected, got in zip(*(prunable_projections(find_blocks(m)) for m in (twin, model)), strict=True):
        torch.testing.assert_close(got.weight, expected.weight)
        torch.testing.assert_close(got.grad, expected.grad)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_a_cut_model_is_penalised_like_the_dense_model_with_zeros_in_place_of_the_removed_neurons(mode):
    cut, zeroed = make_model("bert"), make_model("bert")
    gone = [1, 4, 5, 6]
    remove(cut, neurons={0: gone})
    with torch.no_grad():
        find_blocks(zeroed).mlps[0].out.weight[:, gone] = 0
    for model in (cut, zeroed):
        method = NeuroPrune(alpha=0.1, mode=mode)
        run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=1)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.start(run)
        method.before_step(run)
        run.optimizer.step()
        run.step = 1
        method.after_step(run)
    left = kept_units(cut).neurons[0]
    found, expected = (find_blocks(model).mlps[0] for model in (cut, zeroed))
    torch.testing.assert_close(found.out.weight, expected.out.weight[:, left])
    torch.testing.assert_close(found.ins[0].weight, expected.ins[0].weight[left])
    assert not torch.equal(found.out.weight, find_blocks(make_model("bert")).mlps[0].out.weight[:, left])


@pytest.mark.parametrize("merge", ["output", "mlp_in", "none"])
def test_redundant_heads_go_after_an_epoch(merge):
    model, method = make_model("bert"), NeuroPrune(theta=1e-4, merge=merge)
    for attention in find_blocks(model).attentions:
        make_alike(attention, 0, 2)
    run = make_run(model, steps=2, lr=0.0)
    method.start(run)
    method.epoch_end(run)
    method.finish(run)
    assert method.report["removed_heads"] == [[0], [0]]
    assert_optimizer_fits(run)
    dense = make_model("bert")
    o, dense_o = (find_blocks(m).attentions[0].o.weight for m in (model, dense))
    ins, dense_ins = (find_blocks(m).mlps[0].ins[0].weight for m in (model, dense))
    folded, added = dense_o[:, 8:12] + dense_o[:, :4], dense_ins[:, 8:12] + dense_ins[:, :4]
    torch.testing.assert_close(o[:, 4:8], folded if merge == "output" else dense_o[:, 8:12])
    torch.testing.assert_close(ins[:, 8:12], added if merge == "mlp_in" else dense_ins[:, 8:12])


def test_a_merge_into_an_mlp_of_another_width_is_refused_at_the_start():
    model = make_model("bert")
    remove(model, heads={0: [1]})
    NeuroPrune(alpha=0.1, theta=0.1, merge="mlp_in").start(make_run(model, steps=4))  # the dense width counts
    wide = make_model("qwen3", head_dim=8)
    with pytest.raises(UserError, match="merge: mlp_in does not fit"):
        NeuroPrune(alpha=0.1, theta=0.1, merge="mlp_in").start(make_run(wide, steps=4))


def test_the_papers_merge_adds_the_mlp_columns_of_a_replaced_key_head_with_its_queries():
    model = make_model("llama", hidden_size=32)  # eight heads of four channels are as wide as the model
    remove(model, heads={0: [0, 1]})  # the first key head
    blocks = find_blocks(model)
    before = [projection.weight.detach().clone() for projection in blocks.mlps[0].ins]
    make_alike(blocks.attentions[0], 0, 2)  # key heads 1 and 3 of the dense model
    run, method = make_run(model, steps=2), NeuroPrune(theta=1e-4, merge="mlp_in")
    method.start(run)
    method.epoch_end(run)
    assert kept_units(model).heads == [[4, 5, 6, 7], list(range(8))]
    for projection, weight in zip(blocks.mlps[0].ins, before, strict=True):
        weight[:, 24:32] += weight[:, 8:16]
        torch.testing.assert_close(projection.weight.detach(), weight)


@each_model
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_the_penalty_form_makes_every_architecture_sparse(name, mode):
    strength = {"coupled": 0.5, "decoupled": 20.0}[mode]
    model = make_model(name)
    method = NeuroPrune(alpha=strength, beta=strength, theta=0.5, mode=mode, eps=0.01)
    run = train_bare(method, model, name, steps=8, lr=0.01)
    assert measure_sparsity(model).weights > 0.03
    assert all(((weight == 0) | (weight.abs() >= 0.01)).all() for weight in weights(model))
    assert_optimizer_fits(run)
    assert json.loads(json.dumps(method.report))["form"] == "penalty"
    model(**labelled_batch(name, seed=99)).loss.backward()


def test_the_decoupled_penalty_removes_empty_units_as_soon_as_they_are_there():
    model = make_model("bert")
    with torch.no_grad():
        mlp = find_blocks(model).mlps[0]
        mlp.ins[0].weight[5] *= 1e-3
        mlp.ins[0].bias[5] = 0
        mlp.out.weight[:, 5] *= 1e-3
    method = NeuroPrune(alpha=3.0, mode="decoupled")
    run = make_run(model, steps=4, lr=0.01)
    method.start(run)
    take_step(method, run)
    method.epoch_end(run)
    assert 5 not in kept_units(model).neurons[0].tolist()
    assert_optimizer_fits(run)
    take_step(method, run)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_the_penalty_forms_work_in_the_trainer(mode, tmp_path):
    for method in (NeuroPrune(alpha=1.0, beta=1.0, theta=0.2, mode=mode), L1(strength=1.0, mode=mode)):
        model = make_model("bert")
        make_trainer(method, model, tmp_path, max_grad_norm=0.5).train()
        assert method.report["events"][-1]["step"] == 24
        assert measure_sparsity(model).weights > 0


def _make_heads_equal(model):
    """Copy the queries, keys and values of the third head to the first in every layer."""
    for attention in find_blocks(model).attentions:
        make_alike(attention, 0, 2)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_penalties_and_merging_can_begin_after_dense_epochs(mode):
    model = make_model("bert")
    _make_heads_equal(model)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=4, steps_per_epoch=2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method = NeuroPrune(alpha=0.1, beta=0.1, theta=1e-4, mode=mode, penalty_start=0.5)
    method.start(run)
    changed, heads = [], []
    for step in range(4):
        before = [weight.clone() for weight in weights(model)]
        run.optimizer.zero_grad(set_to_none=False)
        method.before_step(run)
        run.optimizer.step()
        run.step += 1
        method.after_step(run)
        changed.append(any(not old.equal(new) for old, new in zip(before, weights(model), strict=True)))
        if step % 2:
            method.epoch_end(run)
            heads.append(min(map(len, kept_units(model).heads)))
    assert changed == [False, False, True, True]
    assert heads == [4, 3]


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("name", ["bert", "t5", "llama", "gpt2"])
def test_regulated_penalties_end_at_the_target(name, mode):
    model = make_model(name)
    method = NeuroPrune(sparsity=0.6, algorithm="penalties", mode=mode)
    train_bare(method, model, name, steps=40)
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.005)
    factors = [entry["factor"] for entry in method.report["strengths"]]
    assert method.report["sparsity"] == 0.6
    assert factors and method.strategy.control.factor > 1  # nothing is absent in so few steps, so strengths rise


def test_regulated_penalties_ease_when_too_much_is_absent():
    model = make_model("bert")
    for projection in prunable_projections(find_blocks(model)):
        projection.weight.data.mul_(1e-6)
    run = make_run(model, steps=40)
    method = NeuroPrune(sparsity=0.5, algorithm="penalties", alpha=1.0, beta=2.0)
    method.start(run)
    take_step(method, run)
    assert method.strategy.control.factor < 1
    assert method.strategy.alpha == pytest.approx(method.strategy.control.factor)
    assert method.strategy.beta == pytest.approx(2 * method.strategy.control.factor)


def test_regulated_penalties_cut_at_end_and_then_hold_the_zeros():
    model = make_model("bert")
    run, method = make_run(model.train(), steps=20), NeuroPrune(sparsity=0.6, algorithm="penalties", end=0.4)
    method.start(run)
    found = []
    while run.step < 20:
        take_step(method, run)
        found.append(measure_sparsity(model).weights)
    assert found[:7] == pytest.approx([0.0] * 7, abs=0.01)
    assert found[7:] == pytest.approx([0.6] * 13, abs=0.005)
    method.epoch_end(run)
    method.finish(run)
    assert measure_sparsity(model).weights == found[-1]
    cut = next(event for event in method.report["events"] if "asked" in event)
    assert (cut["step"], cut["asked"]) == (8, 0.6)


@pytest.mark.parametrize(
    ("mode", "optimizer", "goal"),
    [("coupled", AdamW, 0.25), ("decoupled", AdamW, 0.42), ("coupled", torch.optim.SGD, 0.42)],
)
def test_coupled_penalties_ask_for_no_more_than_adam_can_move(mode, optimizer, goal, caplog):
    """A quarter of the weights lies within 5 steps of .1; where steps may be larger, the goal is .7 x .6."""
    model = make_model("bert")
    for weight in (projection.weight.data for projection in prunable_projections(find_blocks(model))):
        weight.copy_(torch.where(torch.arange(weight.numel()).view_as(weight) % 4 == 0, 0.499, 0.501))
    rates = optimizer(model.parameters(), lr=0.1)
    schedule = LambdaLR(rates, lambda step: step / 10)  # begins at 0
    method = NeuroPrune(sparsity=0.6, algorithm="penalties", mode=mode)
    method.start(Run(model, rates, schedule, total_steps=10))
    assert method.strategy.control.target == pytest.approx(goal)
    assert ("can bring 25 % of the weights near zero" in caplog.text) == (goal == 0.25)
    again = NeuroPrune(sparsity=0.6, algorithm="penalties", mode=mode)
    other = make_model("bert")
    again.resume(Run(other, optimizer(other.parameters(), lr=0.1), total_steps=10, step=3), method.state_dict())
    assert again.strategy.control.target == method.strategy.control.target


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_regulated_penalties_stop_after_the_cut(mode):
    """If the loss has no gradient, only the penalties move weights."""
    model = make_model("bert")
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=10)
    method = NeuroPrune(sparsity=0.6, algorithm="penalties", mode=mode, alpha=0.1, beta=0.1)
    method.start(run)
    moved = []
    for _ in range(10):
        before = [weight.clone() for weight in weights(model)]
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_step(run)
        run.optimizer.step()
        run.step += 1
        method.after_step(run)
        after = weights(model)
        same = [old.shape == new.shape and old.equal(new) for old, new in zip(before, after, strict=True)]
        moved.append(not all(same))
    assert moved == [True] * 5 + [False] * 5


def test_regulated_penalties_merge_heads_at_the_cut_and_not_later():
    model = make_model("bert")
    _make_heads_equal(model)
    run = make_run(model.train(), steps=10, lr=0.0)
    method = NeuroPrune(sparsity=0.6, algorithm="penalties", theta=0.0, alpha=0.0, beta=1e-9)
    method.start(run)
    counts = []
    while run.step < 10:
        take_step(method, run)
        counts.append(min(map(len, kept_units(model).heads)))
    method.epoch_end(run)
    assert counts[3] == 4
    assert counts[4] < 4
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.005)


def test_a_cut_at_the_end_of_an_epoch_merges_heads_once():
    model = make_model("bert")
    with torch.no_grad():
        for attention in find_blocks(model).attentions:
            for projection in (attention.q, attention.k, attention.v):
                heads = projection.weight.view(4, 4, -1)
                first = 0.5 * heads[0].sign()
                for i in range(4):  # only neighbours are within theta: after their merge, the remaining two are as well
                    heads[i] = first + 0.1 * i
    method = NeuroPrune(sparsity=0.5, algorithm="penalties", theta=0.15)
    train_bare(method, model, steps=8, lr=1e-4)
    assert [event["reached"] for event in method.report["events"] if event["step"] == 4] == [0.5, 0.5]
    assert list(map(len, kept_units(model).heads)) == [2, 2]
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "absent"),
    [
        (lambda body, head: torch.optim.AdamW([{"params": body, "lr": 1e-3}, {"params": head, "lr": 5.0}]), 0.01),
        (lambda body, head: torch.optim.SGD([*body, *head], lr=5.0), 0.0),
    ],
    ids=["each matrix by its own rate", "SGD by eps"],
)
def test_what_counts_as_absent_does_not_depend_on_other_rates(optimizer, absent):
    model = make_model("bert")
    head = list(model.classifier.parameters())
    body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
    run = Run(model, optimizer(body, head), total_steps=100)
    method = NeuroPrune(sparsity=0.5, algorithm="penalties")
    method.start(run)
    assert method.strategy._absent(run) == pytest.approx(absent, abs=0.005)


@pytest.mark.parametrize("stop", [7, 15, 22])
def test_regulated_penalties_resume_where_they_were(stop):
    whole, halves = make_model("bert"), make_model("bert")
    torch.manual_seed(0)  # dropout
    train_bare(NeuroPrune(sparsity=0.6, algorithm="penalties"), whole, steps=30)
    torch.manual_seed(0)
    run, method = make_run(halves.train(), steps=30), NeuroPrune(sparsity=0.6, algorithm="penalties")
    method.start(run)
    while run.step < stop:
        take_step(method, run)
    state, method = method.state_dict(), NeuroPrune(sparsity=0.6, algorithm="penalties")
    method.resume(run, state)
    while run.step < 30:
        take_step(method, run)
    method.epoch_end(run)
    method.finish(run)
    for expected, got in zip(weights(whole), weights(halves), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("stop", "length"), [(9, 24), (9, 60), (24, 60)], ids=["shorter", "longer", "after the cut"])
def test_regulated_penalties_keep_their_plan_if_the_length_changes(stop, length, caplog):
    settings = {"sparsity": 0.6, "algorithm": "penalties", "penalty_start": 0.25}
    model, method, progress = make_model("bert"), NeuroPrune(**settings), []
    run = make_run(model.train(), steps=40)
    method.start(run)
    while run.step < stop:
        take_step(method, run)
    again, longer = NeuroPrune(**settings), make_run(model, steps=length)
    longer.step = stop
    again.resume(longer, method.state_dict())
    assert [again.strategy.begun(longer, step) for step in (9, 10, 19, 20)] == [False, True, True, False]
    again.strategy.control.update = lambda share, absent: progress.append(share)
    while longer.step < length:
        take_step(again, longer)
    again.finish(longer)
    assert progress == ([10 / 40] if stop < 10 else [])
    assert [event["step"] for event in again.report["events"] if "asked" in event] == [20]
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=1e-3)
    assert "instead of 60.0 %" not in caplog.text


def test_regulated_penalties_that_end_before_the_cut_say_so(caplog):
    run, method = make_run(make_model("bert").train(), steps=20), NeuroPrune(sparsity=0.6, algorithm="penalties")
    method.start(run)
    while run.step < 9:
        take_step(method, run)
    method.finish(run)
    assert "training ended at step 9 with a sparsity of 0.0 % instead of 60.0 %; the smallest weights" in caplog.text


def test_regulated_penalties_without_their_state_keep_the_zeros_of_the_cut():
    model = make_model("bert")
    train_bare(NeuroPrune(sparsity=0.6, algorithm="penalties"), model)
    run, method = make_run(model.train(), steps=12), NeuroPrune(sparsity=0.6, algorithm="penalties")
    run.step = 10
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    method.finish(run)
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "give sparsity"),
        ({"sparsity": 0.5, "heads": 3}, "does not support heads"),
        ({"sparsity": 0.5, "penalty_start": 0.9}, "penalty_start"),
        ({"sparsity": 0.5, "alpha": 0.0, "beta": 0.0}, "above 0"),
    ],
)
def test_what_regulated_penalties_refuse(fields, text):
    with pytest.raises(UserError, match=text):
        NeuroPrune(algorithm="penalties", **fields)


def test_the_usual_algorithm_leaves_no_trace_in_settings():
    """Results recorded before the setting existed keep their identity."""
    assert "algorithm" not in NeuroPrune(sparsity=0.5).settings.model_dump(mode="json")
    chosen = NeuroPrune(sparsity=0.5, algorithm="penalties").settings
    assert chosen.model_dump(mode="json")["algorithm"] == "penalties"
    assert chosen.form == "regulated"
