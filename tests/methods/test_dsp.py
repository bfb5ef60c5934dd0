"""DSP: masks that sum to K, temperatures, noise off in evaluation, exactly K heads, the cut model is the masked one."""

import json
import math

import pytest
import torch

from helpers.loops import (
    assert_no_hooks,
    assert_optimizer_fits,
    labelled_batch,
    make_run,
    make_trainer,
    take_step,
    train_bare,
)
from helpers.models import NAMES, ROWS, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.components.gumbel_top_k import gumbel_top_k, log_linear, straight_through_top_k, top_k
from neuroprune.methods.dsp import DSP, xavier_scores
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity


def literal_top_k(scores, count, temperature, noise):
    """The literal procedure: noise once, then K softmaxes."""
    r = [s + g for s, g in zip(scores, noise, strict=True)]
    total = [0.0] * len(r)
    for j in range(count):
        if j:
            r = [x + math.log(max(1 - q, 2.2250738585072014e-308)) for x, q in zip(r, p, strict=True)]  # noqa: F821
        top = max(x / temperature for x in r)
        e = [math.exp(x / temperature - top) for x in r]
        p = [x / sum(e) for x in e]
        total = [t + q for t, q in zip(total, p, strict=True)]
    return total


@pytest.mark.parametrize("temperature", [1000.0, 1.0, 0.1, 1e-8])
@pytest.mark.parametrize("count", [1, 5, 11])
def test_the_relaxed_choice_against_the_literal_procedure(count, temperature):
    scores = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    noise = (-(-torch.rand_like(scores).log()).log()).tolist()
    torch.manual_seed(7)
    mask = gumbel_top_k(scores, count, temperature)
    assert mask.tolist() == pytest.approx(literal_top_k(scores.tolist(), count, temperature, noise), abs=1e-9)
    assert mask.sum().item() == pytest.approx(count, abs=1e-9)


def test_the_choice_has_a_gradient_until_it_is_sharp():
    for temperature, dead in ((1.0, False), (1e-8, True)):
        scores = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(0)
        mask = gumbel_top_k(scores, 3, temperature)
        (mask * torch.arange(6)).sum().backward()
        assert scores.grad.isfinite().all() and bool((scores.grad == 0).all()) == dead


def test_frequencies_follow_the_scores():
    """With K = 1 and temperature 0, a head is chosen with probability softmax(scores)."""
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    mean = torch.stack([gumbel_top_k(scores, 1, 1e-8) for _ in range(4000)]).mean(0)
    assert mean.tolist() == pytest.approx(scores.softmax(0).tolist(), abs=0.03)


def test_straight_through_is_a_hard_choice_with_the_identity_as_gradient():
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    mask = straight_through_top_k(scores, 2)
    assert mask.tolist() == [1, 0, 1]
    (mask * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert scores.grad.tolist() == [1, 2, 3]
    assert top_k(scores, 3).tolist() == straight_through_top_k(scores, 3).tolist() == [1, 1, 1]  # all heads


def test_the_temperature_is_log_linear():
    """From 1000 to 1e-8 in ten steps, 1.1 decades per step; then constant."""
    found = [log_linear(step, 10, 1000, 1e-8) for step in (0, 1, 5, 10, 11)]
    assert found == pytest.approx([1000, 10**1.9, 10**-2.5, 1e-8, 1e-8], rel=1e-9)
    assert log_linear(0, 0, 1000, 1e-8) == pytest.approx(1e-8)


def test_the_temperature_falls_over_the_cooldown_share_of_the_steps():
    run, method, found = make_run(make_model("bert"), steps=10), DSP(heads=3, cooldown=0.5), []
    method.start(run)
    for run.step in (1, 4, 5, 9):
        method.strategy.after_step(run)
        found.append(method.strategy.learned.temperature)
    method.abandon()
    assert found == pytest.approx([10**0.8, 10**-5.8, 1e-8, 1e-8])


def test_the_learning_rate_of_the_scores_decays_linearly_to_zero():
    """Adam moves a score with a constant gradient by its learning rate in every step."""
    run, method, moved = make_run(make_model("bert").train(), steps=4), DSP(heads=3, score_lr=0.4), []
    method.start(run)
    scores = method.strategy.learned.scores
    for run.step in range(4):
        before, scores.grad = scores.detach().clone(), torch.ones_like(scores)
        method.before_step(run)
        moved.append((before - scores.detach()).mean().item())
    method.abandon()
    assert moved == pytest.approx([0.4, 0.3, 0.2, 0.1], rel=1e-4)


def test_the_gradient_of_the_scores_is_clipped_apart():
    run, method = make_run(make_model("bert").train(), steps=4), DSP(heads=3)
    method.start(run)
    scores = method.strategy.learned.scores
    scores.grad = torch.full_like(scores, 100)
    method.before_step(run)
    mean = method.state_dict()["optimizer.exp_avg"]
    method.abandon()
    assert mean.norm().item() == pytest.approx(0.1)  # of a gradient of norm 1


def test_gradients_that_overflow_leave_the_scores_finite():
    run, method = make_run(make_model("bert").train(), steps=4), DSP(heads=3)
    method.start(run)
    scores = method.strategy.learned.scores
    before, scores.grad = scores.detach().clone(), torch.ones_like(scores)
    scores.grad[0], scores.grad[1] = math.inf, math.nan
    method.before_step(run)
    method.abandon()
    assert scores.isfinite().all() and (scores[2:] < before[2:]).all()


def test_scores_start_as_xavier_says():
    scores = xavier_scores([12] * 12)
    assert scores.dtype == torch.float64 and scores.shape == (144,)
    assert 0.4 < scores.abs().max() <= math.sqrt(6 / 24)


@pytest.mark.parametrize("estimator", ["gumbel", "straight_through"])
def test_the_mask_sums_to_k_at_every_step(estimator):
    model, method = make_model("bert").train(), DSP(heads=3, estimator=estimator)
    run = make_run(model, steps=12)
    method.start(run)
    temperatures = []
    while run.step < 12:
        take_step(method, run)
        temperatures.append(method.strategy.learned.temperature)
        assert sum(mask.sum().item() for mask in method.strategy._gates.masks.values()) == pytest.approx(3, abs=1e-9)
    assert temperatures[7] > 1e-8 and temperatures[8:] == pytest.approx([1e-8] * 4)  # 68 % of 12 steps: 8.16


def test_evaluation_is_without_noise_and_does_not_move_training():
    model, method = make_model("bert"), DSP(heads=3)
    method.start(make_run(model, steps=10))
    batch = make_batch("bert")
    state = torch.get_rng_state()
    first = logits(model.eval(), batch)
    assert torch.equal(first, logits(model, batch)) and torch.equal(torch.get_rng_state(), state)
    model.train()
    assert sorted(torch.cat([*method.strategy.learned.draw(False).values()]).tolist()) == [0] * 5 + [1] * 3


def test_an_encoder_called_directly_has_the_masks_of_evaluation():
    """`generate` calls the encoder without the hooks of the model: before the first pass, and after a training step."""
    model, method = make_model("t5"), DSP(heads=8, score_lr=2.0)
    run = make_run(model, steps=4)
    method.start(run)
    inputs = make_batch("t5")
    mask = {"attention_mask": inputs["attention_mask"]}
    for _ in range(2):
        with torch.no_grad():
            alone = model.eval().get_encoder()(inputs["input_ids"], **mask).last_hidden_state
            assert torch.equal(alone, model(**inputs).encoder_last_hidden_state)
        model.train()
        take_step(method, run, "t5")
    method.abandon()


@pytest.mark.parametrize("name", NAMES)
def test_exactly_k_heads_are_left_and_the_cut_model_is_the_masked_one(name):
    row = ROWS[name]
    for count in (row.groups, row.attentions * row.heads // 2, row.attentions * row.heads):
        model, method = make_model(name), DSP(heads=count, score_lr=2.0)
        run = make_run(model.train(), steps=3)
        method.start(run)
        while run.step < 3:
            take_step(method, run, name)
        batch = make_batch(name)
        masked = logits(model.eval(), batch)
        method.finish(run)
        torch.testing.assert_close(logits(model, batch), masked, atol=1e-5, rtol=1e-5)
        assert sum(measure_sparsity(model).heads_per_layer) == count
        assert sum(map(len, method.report["removed_heads"])) == row.attentions * row.heads - count
        assert_no_hooks(model)
        assert_optimizer_fits(run)
    model(**labelled_batch(name, seed=99)).loss.backward()


def test_one_head_of_all_leaves_the_other_layers_silent():
    model, method = make_model("bert"), DSP(heads=1)
    train_bare(method, model, steps=2)
    assert len(method.report["silent"]) == 1
    json.dumps(method.report)


def test_what_was_frozen_before_stays_frozen():
    model = make_model("bert")
    model.get_input_embeddings().requires_grad_(False)
    train_bare(DSP(heads=4, stage="pipelined"), model)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {
        "bert.embeddings.word_embeddings.weight"
    }


def test_joint_trains_weights_and_scores_and_pipelined_only_scores():
    for stage in ("joint", "pipelined"):
        model, method = make_model("bert").train(), DSP(heads=4, stage=stage)
        before = [p.detach().clone() for p in model.parameters()]
        run = make_run(model, steps=6)
        method.start(run)
        scores = method.strategy.learned.scores.detach().clone()
        for _ in range(3):
            take_step(method, run)
        same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert same == (stage == "pipelined") and not torch.equal(scores, method.strategy.learned.scores)
        method.finish(run)
        assert all(p.requires_grad for p in model.parameters())


def test_the_scores_learn_which_heads_matter():
    """Two of four heads have almost no output and are removed."""
    model = make_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=1).train()
    with torch.no_grad():
        output = find_blocks(model).attentions[0].o.weight
        output[:, 4:12] *= 1e-3
        output *= 4
    inputs = {key: value for key, value in labelled_batch("bert", seed=0, rows=16).items() if key != "labels"}
    target = model(**inputs).logits.detach()
    method, run = DSP(heads=2, stage="pipelined"), make_run(model, steps=80)
    method.start(run)
    while run.step < 80:
        (model(**inputs).logits - target).square().mean().backward()
        method.before_step(run)
        run.step += 1
        method.after_step(run)
    method.finish(run)
    assert method.report["removed_heads"] == [[1, 2]]


OPTIONS = [{}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}]


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_the_trainer_needs_nothing_but_the_callback(arguments, tmp_path):
    model, method = make_model("bert"), DSP(heads=3)
    trainer = make_trainer(method, model, tmp_path, eval_strategy="epoch", **arguments)
    trainer.train()
    assert sum(measure_sparsity(model).heads_per_layer) == 3
    trainer.evaluate()


def test_a_run_goes_on_from_its_state():
    """Six steps are the same with and without a switch to another object."""
    finals = []
    for stop in (None, 3):
        model, method = make_model("bert").train(), DSP(heads=3)
        torch.manual_seed(5)
        run = make_run(model, steps=6)
        method.start(run)
        while run.step < 6:
            if run.step == stop:
                method.strategy._gates.detach()
                state, rng = {k: v.clone() if torch.is_tensor(v) else v for k, v in method.state_dict().items()}, None
                rng = torch.get_rng_state()
                method = DSP(heads=3)
                method.resume(run, state)
                torch.set_rng_state(rng)
            take_step(method, run)
        finals.append(method.strategy.learned.scores.detach().clone())
    assert torch.equal(*finals)


@pytest.mark.parametrize(("fields", "says"), [({"heads": 9}, "has 8 heads"), ({"heads": 0}, "1"), ({}, "heads")])
def test_mistakes_are_told_in_a_sentence(fields, says):
    with pytest.raises(UserError, match=says):
        DSP(**fields).start(make_run(make_model("bert"), steps=3))


def test_it_begins_at_the_beginning():
    run = make_run(make_model("bert"), steps=3)
    run.step = 1
    with pytest.raises(UserError, match="step 0"):
        DSP(heads=3).start(run)


def test_steps_in_evaluation_mode_are_refused():
    run, method = make_run(make_model("bert").eval(), steps=4), DSP(heads=3)
    method.start(run)
    with pytest.raises(UserError, match="evaluation mode, in which DSP does not learn masks"):
        take_step(method, run)
    method.abandon()


def test_a_run_that_ends_before_the_masks_settle_says_so(caplog):
    run, method = make_run(make_model("bert").train(), steps=40), DSP(heads=3)
    method.start(run)
    take_step(method, run)
    method.finish(run)
    assert "training ended at step 1, before the masks of DSP settled at step" in caplog.text


def test_a_resumed_run_keeps_its_temperature_if_the_length_changes():
    method, again = DSP(heads=3), DSP(heads=3)
    run, longer = make_run(make_model("bert").train(), steps=8), make_run(make_model("bert").train(), steps=16)
    method.start(run)
    while run.step < 5:
        take_step(method, run)
    longer.step = 5
    again.resume(longer, method.state_dict())
    assert again.strategy.learned.temperature == method.strategy.learned.temperature
    for each in (method, again):
        each.abandon()


def test_learning_scores_alone_takes_no_step_with_earlier_gradients():
    model = make_model("bert").train()
    model(**labelled_batch("bert", seed=0)).loss.backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run, method = make_run(model, steps=4), DSP(heads=3, stage="pipelined")
    method.start(run)
    take_step(method, run)
    for earlier, now in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(now, earlier, rtol=0, atol=0)
    method.abandon()
