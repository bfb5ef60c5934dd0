"""The target form: exact targets for all sizes, step counts and architectures; kept zeros; re-warmed learning rate."""

import json
from types import SimpleNamespace

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
    weights,
)
from helpers.models import each_model, make_batch, make_model
from neuroprune.methods.components.embeddings import freeze_embeddings
from neuroprune.methods.components.zero_mask import zero_smallest
from neuroprune.methods.dense import Dense
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import cubic_schedule, measure_sparsity, prunable_weights, zero_or_removed
from neuroprune.pruning.surgery import kept_units, remove_zero_units


def run_until(stop, method):
    """The interrupted run of a method after some of twelve steps; events take place after steps 4, 5 and 6."""
    run = make_run(make_model("bert"), steps=12)
    method.start(run)
    while run.step < stop:
        take_step(method, run)
    return run


both_targets = pytest.mark.parametrize("method_class", [NeuroPrune, L1])


@both_targets
@each_model
def test_the_target_is_met_exactly(name, method_class):
    model, method = make_model(name), method_class(sparsity=0.8)
    run = train_bare(method, model, name)
    total = prunable_weights(model)
    assert measure_sparsity(model).weights == round(0.8 * total) / total
    assert_optimizer_fits(run)
    assert_no_hooks(model)
    model(**labelled_batch(name, seed=99)).loss.backward()  # it trains on


@both_targets
@pytest.mark.parametrize("sparsity", [0.02, 0.3, 0.95, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_any_target_is_met_in_any_number_of_steps(method_class, sparsity, steps):
    model = make_model("bert")
    train_bare(method_class(sparsity=sparsity), model, steps=steps)
    assert measure_sparsity(model).weights == pytest.approx(sparsity, abs=1e-3)
    blocks = find_blocks(model)
    assert all(a.heads >= 1 for a in blocks.attentions) and all(m.width >= 1 for m in blocks.mlps)


def test_the_model_really_gets_smaller():
    model = make_model("bert")
    train_bare(NeuroPrune(sparsity=0.8), model)
    left = sum(weight.numel() for weight in weights(model))
    assert left / prunable_weights(model) == pytest.approx(0.2, abs=0.05)  # whole units, topped up by single weights


@both_targets
def test_the_trainer_needs_nothing_but_the_callback(method_class, tmp_path):
    model, method = make_model("bert"), method_class(sparsity=0.8)
    trainer = make_trainer(method, model, tmp_path)
    trainer.train()
    assert measure_sparsity(model).weights == pytest.approx(0.8, abs=1e-3)
    assert [event["step"] for event in method.report["events"]] == [8, 10, 12]
    assert_optimizer_fits(SimpleNamespace(model=model, optimizer=trainer.optimizer.optimizer))
    assert_no_hooks(model)
    assert trainer.predict(trainer.train_dataset).predictions.shape == (48, 2)


@each_model
@pytest.mark.parametrize(
    "fields", [{"sparsity": 0.8}, {"alpha": 0.1, "beta": 0.1, "theta": 5.0}], ids=["target", "penalty"]
)
def test_trainer_and_seq2seq_trainer_need_nothing_but_the_callback(name, fields, tmp_path):
    model = make_model(name)
    trainer = make_trainer(NeuroPrune(**fields), model, tmp_path, rows=12, name=name)
    trainer.train()
    found = measure_sparsity(model)
    assert found.weights == pytest.approx(0.8, abs=1e-3) if "sparsity" in fields else found.heads > 0
    assert_optimizer_fits(SimpleNamespace(model=model, optimizer=trainer.optimizer.optimizer))
    assert_no_hooks(model)
    judged = trainer.evaluate()
    assert torch.isfinite(torch.tensor(judged["eval_loss"]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_accumulation_steps": 3},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"num_train_epochs": 0.5},
        {"max_steps": 7},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2},
        {"lr_scheduler_type": "constant"},
        {"eval_strategy": "steps", "eval_steps": 1},
        {"optim": "sgd"},
        {"full_determinism": True},
    ],
    ids=str,
)
def test_the_trainers_options_go_together_with_it(arguments, tmp_path):
    model = make_model("bert")
    trainer = make_trainer(NeuroPrune(sparsity=0.7), model, tmp_path, **arguments)
    trainer.train()
    assert measure_sparsity(model).weights == pytest.approx(0.7, abs=1e-3)
    torch.use_deterministic_algorithms(False)


def test_the_report_says_what_went_when():
    model = make_model("bert")
    method = NeuroPrune(sparsity=0.8)
    train_bare(method, model)
    report = json.loads(json.dumps(method.report))
    assert report["form"] == "target"
    assert [event["asked"] for event in report["events"]] == pytest.approx(cubic_schedule(0.8, 3))
    assert [event["step"] for event in report["events"]] == [4, 5, 6]
    assert all(e["reached"] == pytest.approx(e["asked"], abs=0.05) for e in report["events"])
    assert report["events"][-1]["reached"] == pytest.approx(0.8, abs=1e-3)
    kept = kept_units(model)
    assert report["removed_heads"] == [[h for h in range(4) if h not in left] for left in kept.heads]
    assert report["events"][-1]["neurons_removed"] == 48 - sum(map(len, kept.neurons))
    assert 0 < report["head_distances"]["min"] <= report["head_distances"]["q1"] <= report["head_distances"]["q3"]


def test_both_target_forms_follow_the_same_schedule():
    reports = []
    for method in (NeuroPrune(sparsity=0.8), L1(sparsity=0.8)):
        train_bare(method, make_model("bert"), steps=30)
        reports.append([(event["step"], event["asked"]) for event in method.report["events"]])
    assert reports[0] == reports[1]


def test_outside_its_windows_it_is_plain_training():
    """Up to the first event, the weights are bitwise those of a dense run."""
    models = {}
    for method in (Dense(), NeuroPrune(sparsity=0.8, start=0.5, end=0.6, calibration_rows=8)):
        torch.manual_seed(1)
        model = models[type(method)] = make_model("bert").train()
        run = make_run(model, steps=12)
        method.start(run)
        for step in range(5):
            take_step(method, run)
            hooked = any(m._forward_hooks for m in model.modules())
            assert hooked == (type(method) is NeuroPrune and step + 1 in (4, 5))  # on during steps 5 and 6
    for dense, other in zip(models[Dense].parameters(), models[NeuroPrune].parameters(), strict=True):
        assert torch.equal(dense, other)


@pytest.mark.parametrize(("passes", "first"), [(1, 2), (2, 6), (3, 7), (8, 9)])
def test_the_window_counts_the_rows_of_an_accumulated_step(passes, first):
    model = make_model("bert").train()
    method = NeuroPrune(sparsity=0.5, start=0.5, end=0.5, events=1, calibration_rows=32)
    run = make_run(model, steps=20, passes=passes)
    method.start(run)
    for step in range(first):
        assert step == 0 or not model._forward_pre_hooks  # the first step is a trial of the calibration
        take_step(method, run)
    assert model._forward_pre_hooks  # 32 rows, four a batch, before the event at step 10


def test_l1_zeroes_the_smallest_weights_of_all_matrices():
    model, method = make_model("bert").train(), L1(sparsity=0.6, start=0.1, end=0.1, events=1, post_lr=1)
    run = make_run(model, steps=10, lr=0.0)
    before = torch.cat([weight.flatten() for weight in weights(model)]).abs()
    method.start(run)
    take_step(method, run)
    after = torch.cat([weight.flatten() for weight in weights(model)])
    assert torch.equal(after == 0, before <= before.sort().values[round(0.6 * len(before)) - 1])


@both_targets
def test_zeros_stay_zero(method_class):
    model, method = make_model("bert").train(), method_class(sparsity=0.613, start=0.3, end=0.3, events=1)
    run = make_run(model, steps=10)
    method.start(run)
    for _ in range(3):
        take_step(method, run)
    zeros = [weight == 0 for weight in weights(model)]
    assert sum(int(zero.sum()) for zero in zeros) > 0
    for _ in range(5):
        take_step(method, run)
        assert all(torch.equal(weight == 0, zero) for weight, zero in zip(weights(model), zeros, strict=True))


def test_l1_removes_units_that_it_leaves_empty():
    model = make_model("bert")
    with torch.no_grad():
        find_blocks(model).mlps[0].out.weight[:, [3, 7]] *= 1e-4
    train_bare(L1(sparsity=0.5), model, steps=6, lr=1e-6)
    kept = kept_units(model).neurons[0].tolist()
    assert 3 not in kept and 7 not in kept
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def error_of_fold(model, batch, **fields):
    """Return the squared change of the logits by one event without further training."""
    expected = model.eval()(**batch).logits.detach()
    method = NeuroPrune(events=1, start=1, end=1, calibration_rows=24, ridge=1e-4, **fields)
    run = make_run(model, steps=6, lr=0.0)
    method.start(run)
    for _ in range(6):
        take_step(method, run)
    return (model.eval()(**batch).logits - expected).square().sum().item()


def test_the_fold_helps():
    """Without further training, a folded model is closer to the dense one."""
    batch = make_batch("bert", rows=4)
    errors = {fold: error_of_fold(make_model("bert"), batch, sparsity=0.5, fold=fold) for fold in (True, False)}
    assert errors[True] < 0.7 * errors[False]


def test_units_with_a_constant_output_are_removed_without_any_change_where_means_are_folded():
    batch, errors = make_batch("bert", rows=4), {}
    for fold in ("means", False):
        model, constant = make_model("bert"), 4
        mlps, total = find_blocks(model).mlps, prunable_weights(model)
        for mlp in mlps:
            with torch.no_grad():
                mlp.inputs[0].weight[:constant] *= 1e-9
                mlp.inputs[0].bias[:constant] = 1
        share = constant * len(mlps) * 2 * model.config.hidden_size / total
        errors[fold] = error_of_fold(model, batch, sparsity=share, fold=fold)
        assert measure_sparsity(model).weights == pytest.approx(share, abs=1e-3)
    assert errors["means"] < 1e-8 < 1e-4 < errors[False]


@pytest.mark.parametrize(("steps", "end", "fold"), [(99, 0.5, True), (100, 0.5, "means"), (100, 0.6, True)])
def test_the_fold_by_length_is_least_squares_if_few_steps_follow_the_last_event(steps, end, fold):
    """49 or 40 steps follow it, or 50: the statistics and the weights are those of that fold."""
    states, options = [], {"sparsity": 0.5, "calibration_rows": 8, "end": end}
    for asked in ("auto", fold):
        model, method = make_model("bert"), NeuroPrune(fold=asked, **options)
        train_bare(method, model, steps=steps)
        assert method.report["fold"] == {True: "least squares", "means": "means"}[fold]
        states.append(model.state_dict())
    auto, known = states
    assert all(torch.equal(value, known[key]) for key, value in auto.items())


def test_a_resumed_run_keeps_its_fold_even_if_it_is_now_longer():
    method, run = NeuroPrune(sparsity=0.5, fold="auto", calibration_rows=8), make_run(make_model("bert"), 60)
    method.start(run)
    while not method.strategy.state_dict()["calibrating"]:
        take_step(method, run)
    state, longer = method.state_dict(), make_run(run.model, 600)
    longer.step = run.step
    again = NeuroPrune(sparsity=0.5, fold="auto", calibration_rows=8)
    again.resume(longer, state)
    assert again.report["fold"] == "least squares"


@pytest.mark.parametrize("name", ["bert", "t5", "llama"])
def test_options_of_the_target_form(name):
    options = ({"fold": False}, {"fold": "means"}, {"token_weights": False}, {"min_share": 0.5}, {"events": 7})
    for fields in (*options, {"post_lr": 1}):
        model = make_model(name)
        train_bare(NeuroPrune(sparsity=0.6, **fields), model, name)
        assert measure_sparsity(model).weights == pytest.approx(0.6, abs=1e-3)
        if "min_share" in fields:
            assert all(mlp.width >= 12 for mlp in find_blocks(model).mlps)


def test_the_trainers_rate_is_raised_after_the_last_event(tmp_path):
    trainer = make_trainer(NeuroPrune(sparsity=0.5), make_model("bert"), tmp_path, logging_steps=1)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    plain = [1e-3 * (1 - step / 24) for step in range(24)]
    assert rates == pytest.approx([*plain[:12], *[2 * rate for rate in plain[12:]]])  # 3 % of 24 steps is one step


def test_embeddings_rest_after_the_last_event_and_are_free_again_at_the_end():
    model, method = make_model("bert").train(), NeuroPrune(sparsity=0.5)
    run = make_run(model, steps=12)
    method.start(run)
    seen = []
    while run.step < 12:
        take_step(method, run)
        seen.append(model.bert.embeddings.word_embeddings.weight.detach().clone())
    assert torch.equal(seen[5], seen[-1]) and not torch.equal(seen[4], seen[5])
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    method.finish(run)
    assert all(parameter.requires_grad for parameter in model.parameters())


@both_targets
def test_an_event_has_the_memory_of_the_gradients(method_class, monkeypatch):
    """The step has used them; together with the statistics of the event they would be the peak of the whole run."""
    strategy, held = type(method_class(sparsity=0.5).strategy), []
    prune = strategy.prune

    def look(self, run, goal, last):
        held.append([name for name, parameter in run.model.named_parameters() if parameter.grad is not None])
        prune(self, run, goal, last)

    monkeypatch.setattr(strategy, "prune", look)
    train_bare(method_class(sparsity=0.5), make_model("bert"))
    assert held == [[], [], []]


@both_targets
def test_a_run_that_resumes_after_an_event_does_not_expect_it_again(method_class):
    method = method_class(sparsity=0.5)
    run = run_until(4, method)
    state, method = method.state_dict(), method_class(sparsity=0.5)
    method.resume(run, state)
    assert [event["step"] for event in method.report["events"]] == [4]
    assert sorted(method.strategy.events) == [5, 6]


@both_targets
def test_embeddings_rest_in_a_run_that_goes_on_after_the_last_event_without_its_state(method_class):
    method = method_class(sparsity=0.5)
    run = run_until(8, method)
    method.abandon()
    again = method_class(sparsity=0.5)
    again.start(run)
    assert not run.model.get_input_embeddings().weight.requires_grad
    again.finish(run)
    assert run.model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(("first", "then", "samples"), [(8, 2, 4), (2, 8, 12)], ids=["smaller", "larger"])
def test_a_resumed_run_may_read_batches_of_another_size(first, then, samples):
    """Smaller batches open the window before the event earlier; a window that was open stays open."""
    method, run = NeuroPrune(sparsity=0.5, start=0.5, events=1, calibration_rows=8), make_run(make_model("bert"), 8)
    run.batch_size = first  # four rows are read in each step; the event comes at step 4
    method.start(run)
    while run.step < 2:
        take_step(method, run)
    state, method = method.state_dict(), NeuroPrune(**method.settings.model_dump())
    run.batch_size = then
    method.resume(run, state)
    take_step(method, run)
    assert {found.samples for found in method.strategy._calibration.statistics.values()} == {samples}
    while run.step < 8:
        take_step(method, run)
    method.finish(run)
    assert measure_sparsity(run.model).weights == pytest.approx(0.5, abs=1e-3)


def test_query_heads_without_a_way_through_their_shared_values_go_before_weights_are_counted():
    """Of each group's first query head, half the channels are idle in V and the others in O."""
    model = make_model("llama")
    with torch.no_grad():
        for attention in find_blocks(model).attentions:
            attention.v.weight.view(4, 4, -1)[:, :2] *= 1e-6
            attention.o.weight.view(-1, 4, 2, 4)[:, :, 0, 2:] *= 1e-6
    zero_smallest(make_run(model, steps=1), goal=1500)
    assert zero_or_removed(model) == 1500
    assert kept_units(model).heads == [[1, 3, 5, 7]] * 2
    assert remove_zero_units(model) == (0, 0)


def test_embeddings_that_are_the_output_layer_too_stay_free():
    model = make_model("gpt2")
    frozen = freeze_embeddings(make_run(model, steps=1))
    assert model.lm_head.weight.requires_grad
    assert frozen.names == ("transformer.wpe.weight",)  # the positions


def test_position_biases_of_attentions_stay_free():
    model = make_model("t5")
    freeze_embeddings(make_run(model, steps=1))
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert bias.weight.requires_grad


def test_what_was_frozen_before_stays_frozen():
    model = make_model("bert")
    model.get_input_embeddings().requires_grad_(False)
    train_bare(NeuroPrune(sparsity=0.5), model)
    assert not model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("fields", [{}, {"algorithm": "penalties"}], ids=["target form", "regulated penalties"])
def test_a_missed_target_is_told(fields, zeroed, caplog):
    run, method = make_run(make_model("bert").train(), steps=12), NeuroPrune(sparsity=0.5, **fields)
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    if zeroed:
        weights(run.model)[0].zero_()
    caplog.clear()
    method.finish(run)
    found = f"training ended at step 12 with a sparsity of {100 * measure_sparsity(run.model).weights:.1f} % instead of"
    assert caplog.messages == ([f"{found} 50.0 %"] if zeroed else [])


def test_a_loop_without_its_batch_size_is_told_once_what_is_assumed(caplog):
    run = make_run(make_model("bert"), steps=12)
    assert run.steps_for(9) == 3 and not caplog.messages
    run.batch_size = None
    assert [run.steps_for(rows) for rows in (32, 33)] == [1, 2]
    assert caplog.messages == ["Run(batch_size=…) is not given: 32 rows per optimizer step are assumed."]
