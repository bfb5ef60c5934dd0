"""Taylor and random units: removal of whole units by score, exact targets, and values of the scores."""

import pytest
import torch

from helpers.loops import labelled_batch, make_run, make_trainer, train_bare
from helpers.models import each_model, make_model
from neuroprune.errors import UserError
from neuroprune.methods.random_units import RandomUnits
from neuroprune.methods.taylor import Taylor, taylor_scores
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights
from neuroprune.pruning.surgery import kept_units

both = pytest.mark.parametrize("method_class", [Taylor, RandomUnits])


@both
@each_model
def test_the_target_is_met_exactly(name, method_class):
    model = make_model(name)
    train_bare(method_class(sparsity=0.8), model, name, steps=6)
    total = prunable_weights(model)
    assert measure_sparsity(model).weights == round(0.8 * total) / total
    assert any(
        len(left) < of for left, of in zip(kept_units(model).neurons, kept_units(model).dense_neurons, strict=True)
    )
    model(**labelled_batch(name, seed=99)).loss.backward()


@both
def test_the_trainer_needs_nothing_but_the_callback(method_class, tmp_path):
    model, method = make_model("bert"), method_class(sparsity=0.6)
    make_trainer(method, model, tmp_path).train()
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=1e-3)
    assert [event["step"] for event in method.report["events"]] == [8, 10, 12]


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5"])
def test_taylor_scores_against_each_unit_by_hand(name):
    """The literal sum over a unit's own weights in the stored matrices."""
    model = make_model(name).train()
    model(**labelled_batch(name, seed=1)).loss.backward()
    run = make_run(model, steps=4)
    scores, blocks = taylor_scores(run), run.blocks
    for attention in blocks.attentions:
        found = scores[attention]
        size, wide = attention.head_dim, attention.head_dim * attention.groups
        for head in range(len(found)):
            narrow_rows, wide_rows = slice(head * size, (head + 1) * size), slice(head * wide, (head + 1) * wide)
            q, k, v, o = ((p.weight * p.grad).abs() for p in (attention.q, attention.k, attention.v, attention.o))
            literal = q[wide_rows].sum() + k[narrow_rows].sum() + v[narrow_rows].sum() + o[:, wide_rows].sum()
            assert found[head] == pytest.approx(literal.item(), rel=1e-4)
    mlp, found = blocks.mlps[-1], scores[blocks.mlps[-1]]
    literal = (
        sum((p.weight * p.grad).abs()[5].sum() for p in mlp.ins) + (mlp.out.weight * mlp.out.grad).abs()[:, 5].sum()
    )
    assert found[5] == pytest.approx(literal.item(), rel=1e-4)


def test_a_block_skipped_in_every_step_keeps_all_its_units():
    method, run = Taylor(sparsity=0.5), make_run(make_model("bert").train(), steps=4)
    method.start(run)
    skipped, *others = run.blocks.all
    method.strategy._sums = {block: torch.ones(block.units) for block in others} | {skipped: torch.zeros(skipped.units)}
    scores = method.strategy.scores(run)
    method.abandon()
    assert scores[skipped].isinf().all() and all(scores[block].eq(1).all() for block in others)


def test_taylor_sums_over_the_steps_before_the_event_and_removes_the_weakest_for_their_size():
    model, method = (
        make_model("bert").train(),
        Taylor(sparsity=0.3, start=0.5, end=0.5, events=1, calibration_rows=8),
    )
    run = make_run(model, steps=10, lr=0.0)
    method.start(run)
    sums = None
    while run.step < 5:
        model(**labelled_batch("bert", seed=run.step)).loss.backward()
        if run.step >= 3:
            now = taylor_scores(run)
            sums = now if sums is None else {block: sums[block] + now[block] for block in now}
        method.before_step(run)
        if sums is not None:
            for i, expected in enumerate(sums.values()):
                torch.testing.assert_close(method.state_dict()[f"sums.{i}"], expected)
        run.optimizer.step()
        run.step += 1
        method.after_step(run)
        run.optimizer.zero_grad()
    gone = set(range(24)) - set(kept_units(model).neurons[0].tolist())
    weakest = torch.argsort(sums[run.blocks.mlps[0]])[: len(gone)].tolist()
    assert gone == set(weakest) and gone


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_steps_whose_gradients_overflow_do_not_count_and_postpone_the_event(wrong):
    settings = {"sparsity": 0.5, "start": 0.5, "end": 0.75, "events": 2, "calibration_rows": 8}
    method, run = Taylor(**settings), make_run(make_model("bert").train(), steps=12)
    method.start(run)
    assert [step for step, _ in method.strategy.plan] == [6, 9]
    while run.step < 12:
        run.model(**labelled_batch("bert", seed=run.step)).loss.backward()
        before = method.strategy._sums
        overflow = run.step in (4, 5, 6, 8)  # all steps of the window before each event
        if overflow:
            run.model.get_parameter("bert.encoder.layer.1.output.dense.weight").grad[0, 0] = wrong
        method.before_step(run)
        assert (method.strategy._sums is before) == (overflow or run.step not in (7, 9))
        if not overflow:  # as a gradient scaler does
            run.optimizer.step()
        run.step += 1
        method.after_step(run)
        run.optimizer.zero_grad()
        if run.step == 6:  # resume while the first event is postponed
            state, method = method.state_dict(), Taylor(**settings)
            method.resume(run, state)
    method.finish(run)
    assert [event["step"] for event in method.report["events"]] == [8, 10]
    assert measure_sparsity(run.model).weights == pytest.approx(0.5, abs=1e-3)


def test_an_event_without_finite_gradients_falls_together_with_the_next(caplog):
    method, run = Taylor(sparsity=0.5, start=0.5, end=0.6, events=2), make_run(make_model("bert").train(), steps=12)
    method.start(run)
    shares = [share for _, share in method.strategy.plan]
    assert [*method.strategy.events] == [6, 7]
    run.step = 6
    method.strategy.after_step(run)
    assert method.strategy.events == {7: shares[1]} and [*method.strategy.plan] == [(7, shares[1])]
    run.step = 12
    method.finish(run)
    assert "training ended at step 12, before the events at [7]" in caplog.text


def test_taylor_needs_gradients():
    model = make_model("bert")
    model.bert.requires_grad_(False)
    with pytest.raises(UserError, match="requires_grad"):
        train_bare(Taylor(sparsity=0.5), model)


def test_random_units_follow_the_seed_and_treat_heads_as_neurons():
    left = []
    for seed in (1, 1, 2):
        model = make_model("bert")
        torch.manual_seed(seed)
        train_bare(RandomUnits(sparsity=0.5), model, steps=3)
        kept = kept_units(model)
        left.append((kept.heads, [n.tolist() for n in kept.neurons]))
    assert left[0] == left[1] != left[2]


def test_random_lots_leave_dropout_alone():
    model, method = make_model("bert").train(), RandomUnits(sparsity=0.5)
    run = make_run(model, steps=3)
    method.start(run)
    before = torch.get_rng_state()
    method.strategy.scores(run)
    assert torch.equal(torch.get_rng_state(), before)
