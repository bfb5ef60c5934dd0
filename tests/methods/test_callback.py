"""Names, settings and error messages of methods."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
import transformers

import neuroprune
from helpers.loops import assert_no_hooks, labelled_batch, make_run, make_trainer, take_step, train_bare, weights
from helpers.models import NAMES, make_batch, make_model
from neuroprune import methods
from neuroprune.config.methods import METHOD_SETTINGS, DenseSettings, L1Settings, NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.cofi.method import CoFi
from neuroprune.methods.dense import Dense
from neuroprune.methods.dsp import DSP
from neuroprune.methods.hooks import Run
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.methods.random_units import RandomUnits
from neuroprune.methods.taylor import Taylor
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import kept_units, remove, remove_zero_units


def test_methods_are_built_from_their_settings():
    for settings, cls in (
        (DenseSettings(), Dense),
        (L1Settings(sparsity=0.5), L1),
        (L1Settings(strength=0.5, mode="decoupled"), L1),
        (NeuroPruneSettings(sparsity=0.5, events=2), NeuroPrune),
        (NeuroPruneSettings(alpha=0.1), NeuroPrune),
    ):
        method = methods.build(settings)
        assert type(method) is cls and method.settings == settings
    assert methods.NeuroPrune is NeuroPrune and set(methods.METHODS) == set(METHOD_SETTINGS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NeuroPrune(sparsty=0.8), "sparsity"),
        (lambda: NeuroPrune(sparsity=1.2), "less than 1"),
        (lambda: NeuroPrune(), "alpha, beta and theta"),
        (lambda: NeuroPrune(sparsity=0.5, alpha=1.0), "not both"),
        (lambda: NeuroPrune(sparsity=0.5, mode="decoupled"), "mode: without effect with a target"),
        (lambda: NeuroPrune(alpha=1.0, post_lr=3, fold="means"), "fold, post_lr: without effect with alpha"),
        (lambda: NeuroPrune(sparsity=0.5, algorithm="penalties", events=2), "events: without effect with algorithm"),
        (lambda: NeuroPrune(alpha=0.0, beta=0.0), "nothing is pruned"),
        (lambda: L1(sparsity=0.5, eps=1e-3), "eps: without effect with sparsity"),
        (lambda: L1(strength=0.1, start=0.2), "start: without effect with strength"),
        (lambda: L1(sparsity=0.5, strength=1.0), "exactly one of sparsity"),
        (lambda: methods.find("neurprune"), "did you mean 'neuroprune'"),
        (lambda: Run(make_model("bert"), None, total_steps=-1), "max_steps"),
    ],
)
def test_mistakes_are_told_in_a_sentence(make, says):
    with pytest.raises(UserError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_public_name_loads():
    assert all(getattr(neuroprune, name) is not None for name in neuroprune.__all__)


def test_a_method_without_a_run_says_so():
    with pytest.raises(UserError, match=r"^NeuroPrune has no run yet; start training"):
        NeuroPrune(sparsity=0.5).run  # noqa: B018


@pytest.mark.parametrize("method", [NeuroPrune(alpha=0.1), L1(strength=0.1), DSP(heads=5)])
def test_a_trainer_that_would_load_other_shapes_is_refused(method, tmp_path):
    arguments = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = make_trainer(method, make_model("bert"), tmp_path, **arguments)
    with pytest.raises(UserError, match="load_best_model_at_end"):
        trainer.train()


@pytest.mark.parametrize("make", [NeuroPrune, L1, Taylor, CoFi])
def test_the_best_checkpoint_and_early_stopping_count_from_the_last_event_on(make, tmp_path):
    """The metric decreases steadily, so that a checkpoint of the dense model would be the best."""
    arguments = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    steps = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    method = make(sparsity=0.5)
    trainer = make_trainer(method, make_model("bert"), tmp_path, **arguments, **steps)
    scores = iter(range(100, 0, -1))
    trainer.compute_metrics = lambda _: {"score": float(next(scores))}
    trainer.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=2))
    trainer.train()
    first = -(-method.report["events"][-1]["step"] // 3) * 3  # evaluation after the last event
    assert trainer.state.global_step == min(first + 6, 24)  # two more, which were no better
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{first}")
    best = neuroprune.from_pretrained(tmp_path / f"checkpoint-{first}")
    if make is L1:  # what is zero is removed at the end
        remove_zero_units(best)
    torch.testing.assert_close(dict(trainer.model.named_parameters()), dict(best.named_parameters()), rtol=0, atol=1e-6)
    assert measure_sparsity(trainer.model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("make", [lambda: L1(strength=0.1), lambda: DSP(heads=5), lambda: L1(sparsity=0.5), Dense])
def test_early_stopping_without_effect_is_told(make, tmp_path, caplog):
    arguments = {"metric_for_best_model": "score", "eval_strategy": "steps", "eval_steps": 4}
    trainer = make_trainer(make(), make_model("bert"), tmp_path, **arguments)
    trainer.compute_metrics = lambda _: {"score": 1.0}
    trainer.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=2))
    trainer.train()
    stopped = trainer.state.global_step < 24
    assert ("an EarlyStoppingCallback never stops training" in caplog.text) != stopped


@pytest.mark.parametrize(
    ("strategy", "step"), [("steps", 6), ("steps", 12), ("steps", 24), ("epoch", 12), ("epoch", 24)]
)
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_the_end_of_an_epoch_is_made_up_for_after_a_checkpoint_of_its_last_step(strategy, step, mode, tmp_path):
    """With save_strategy="steps", the Trainer saves before the callbacks know of the epoch's end."""
    reports, models = [], []
    for resume in (None, str(tmp_path / f"checkpoint-{step}")):
        method = NeuroPrune(theta=0.85, alpha=0.01, mode=mode)
        saving = {"save_strategy": strategy, "save_steps": 6}
        trainer = make_trainer(method, make_model("bert"), tmp_path, **saving)
        trainer.train(resume_from_checkpoint=resume)
        reports.append(method.report)
        models.append(trainer.model)
    assert reports[0] == reports[1]
    assert [event["step"] for event in reports[0]["events"]] == [12, 24, 24]
    assert reports[0]["events"][0]["heads_removed"] > 0
    assert all(map(torch.equal, *map(weights, models)))


def test_several_devices_are_refused():
    args = SimpleNamespace(world_size=2, n_gpu=1, load_best_model_at_end=False)
    with pytest.raises(UserError, match="2 devices"):
        NeuroPrune(sparsity=0.5).on_train_begin(args, None, None)


@pytest.mark.parametrize("field", ["deepspeed", "fsdp"])
def test_weights_that_lie_elsewhere_are_refused(field):
    args = SimpleNamespace(world_size=1, n_gpu=1, load_best_model_at_end=False, **{field: "auto"})
    with pytest.raises(UserError, match=field):
        NeuroPrune(sparsity=0.5).on_train_begin(args, None, None)


def test_checkpoints_at_a_signal_are_refused_because_they_lack_the_state(tmp_path):
    trainer = make_trainer(NeuroPrune(sparsity=0.5), make_model("bert"), tmp_path)
    trainer.args.enable_jit_checkpoint = True
    with pytest.raises(UserError, match="enable_jit_checkpoint=True"):
        trainer.train()


@pytest.mark.parametrize("layout", ["free", "uniform"])
def test_models_with_a_common_configuration_are_pruned_one_after_the_other(layout):
    first, sizes = make_model("bert"), []
    config, before = first.config, first.config.to_dict()
    for _ in range(2):
        model = type(first)(config)
        assert model.config is config
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
        train_bare(NeuroPrune(sparsity=0.4, layout=layout, calibration_rows=8), model)
        assert measure_sparsity(model).weights == pytest.approx(0.4, abs=0.01)
        assert kept_units(model).dense_heads == kept_units(first).dense_heads
    assert sizes[0] == sizes[1] and config.to_dict() == before


def test_a_compiled_model_is_refused_at_the_start(tmp_path):
    trainer = make_trainer(NeuroPrune(sparsity=0.5), make_model("bert"), tmp_path)
    trainer.args.torch_compile = True
    with pytest.raises(UserError, match="torch_compile=True"):
        trainer.train()
    in_place = make_model("bert")
    in_place.compile(backend="eager")
    by_layer = make_model("bert")
    by_layer.bert.encoder.layer[1] = torch.compile(by_layer.bert.encoder.layer[1], backend="eager")
    for model in (torch.compile(make_model("bert"), backend="eager"), in_place, by_layer):
        for method in (NeuroPrune(sparsity=0.5), DSP(heads=3), CoFi(sparsity=0.5), L1(strength=1.0)):
            with pytest.raises(UserError, match=r"pass the uncompiled model"):
                method.start(make_run(model, steps=3))


PRUNING = {
    "neuroprune": lambda: NeuroPrune(sparsity=0.5),
    "neuroprune, heads": lambda: NeuroPrune(heads=4),
    "neuroprune, uniform": lambda: NeuroPrune(sparsity=0.5, layout="uniform"),
    "neuroprune, speed-up": lambda: NeuroPrune(speedup=2),
    "penalties": lambda: NeuroPrune(alpha=0.1, beta=0.1, theta=0.2),
    "penalties, decoupled": lambda: NeuroPrune(alpha=0.1, mode="decoupled"),
    "penalties, regulated": lambda: NeuroPrune(sparsity=0.5, algorithm="penalties"),
    "l1": lambda: L1(sparsity=0.5),
    "l1, penalty": lambda: L1(strength=0.1),
    "cofi": lambda: CoFi(sparsity=0.5),
    "dsp": lambda: DSP(heads=4),
    "dsp, pipelined": lambda: DSP(heads=4, stage="pipelined"),
    "taylor": lambda: Taylor(sparsity=0.5),
    "random": lambda: RandomUnits(sparsity=0.5),
}


def test_every_method_that_prunes_is_in_the_list():
    assert {make().settings.name for make in PRUNING.values()} == set(methods.METHODS) - {"dense"}


@pytest.mark.parametrize("embeddings", [True, False], ids=["embeddings trained", "embeddings frozen"])
@pytest.mark.parametrize("make", PRUNING.values(), ids=PRUNING)
def test_a_model_with_a_frozen_layer_is_refused_at_the_start(make, embeddings):
    """With embeddings that are trained, gradients pass through the frozen layer."""
    model, method = make_model("bert"), make()
    model.bert.embeddings.requires_grad_(embeddings)
    model.bert.encoder.layer[1].attention.self.key.requires_grad_(False)
    run = make_run(model, steps=12)
    says = r"^weights of bert\.encoder\.layer\.1\.attention\.self are frozen, .*requires_grad_\(True\)"
    with pytest.raises(UserError, match=says) as caught:
        method.start(run)
    assert "\n" not in str(caught.value)
    assert_no_hooks(model)
    model.bert.encoder.layer[1].requires_grad_(True)
    method.start(run)


def test_frozen_layers_are_refused_when_a_run_resumes():
    model, method = make_model("bert"), RandomUnits(sparsity=0.5)
    method.start(make_run(model, steps=12))
    state = method.state_dict()
    model.bert.requires_grad_(False)
    with pytest.raises(UserError, match=r"^weights of bert\.encoder\.layer\.0\.attention\.self and 3 more are frozen"):
        method.resume(make_run(model, steps=12), state)


def test_layers_that_a_method_does_not_cut_may_be_frozen():
    fc = NeuroPrune(heads=4, calibration_rows=8)
    for method, frozen in ((DSP(heads=4), "intermediate.dense"), (fc, "intermediate"), (Dense(), "attention.self")):
        model = make_model("bert")
        layer = model.bert.encoder.layer[0].get_submodule(frozen).requires_grad_(False)
        before = {name: weight.clone() for name, weight in layer.state_dict().items()}
        train_bare(method, model)
        torch.testing.assert_close(dict(layer.state_dict()), before, rtol=0, atol=0)


def test_layers_are_cut_without_being_trained_at_a_rate_of_0():
    """The remedy of the error for frozen layers."""
    model = make_model("bert").train()
    lower = dict.fromkeys(model.bert.encoder.layer[0].parameters())
    others = [parameter for parameter in model.parameters() if parameter not in lower]
    optimizer = torch.optim.AdamW([{"params": [*lower], "lr": 0.0}, {"params": others, "lr": 1e-3}])
    run, method = Run(model, optimizer, total_steps=12), L1(sparsity=0.5)
    before = weights(model)[0].clone()
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    zeroed = weights(model)[0]
    assert torch.equal(zeroed, before.where(zeroed != 0, 0)) and bool((zeroed == 0).any())
    method.finish(run)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("make", [NeuroPrune, Taylor])
def test_the_first_step_names_the_layer_that_no_gradient_reaches(make):
    model = make_model("bert").train()
    method, run = make(sparsity=0.5, calibration_rows=8), make_run(model, steps=300)
    method.start(run)
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    with pytest.raises(UserError, match=r"bert\.encoder\.layer\.0\.attention.*requires_grad_\(True\)"):
        take_step(method, run)


@pytest.mark.parametrize("make", [NeuroPrune, Taylor])
def test_the_first_step_names_a_layer_that_the_loss_does_not_depend_on(make):
    model = make_model("bert").train()
    layer = model.bert.encoder.layer[1]
    layer.forward = lambda states, *args, **kwargs: states
    method, run = make(sparsity=0.5), make_run(model, steps=300)
    method.start(run)
    with pytest.raises(UserError, match=r"no gradient reache.*bert\.encoder\.layer\.1\.attention"):
        take_step(method, run)
    method.abandon()
    assert_no_hooks(model)


def test_every_run_of_a_method_begins_with_the_checks_of_the_first_step():
    method, model = L1(sparsity=0.5), make_model("bert").train()
    train_bare(method, make_model("bert"))
    model.bert.encoder.layer[1].forward = lambda states, *args, **kwargs: states
    run = make_run(model, steps=12)
    method.start(run)
    with pytest.raises(UserError, match=r"no gradient reached bert\.encoder\.layer\.1\.attention"):
        take_step(method, run)


@pytest.mark.parametrize("make", [NeuroPrune, Taylor])
def test_a_model_that_skips_layers_at_random_is_trained(make):
    model = make_model("bart", encoder_layerdrop=0.6, decoder_layerdrop=0.6).train()
    torch.manual_seed(2)
    train_bare(make(sparsity=0.5, calibration_rows=40), model, "bart", steps=24)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_layers_that_were_skipped_in_a_whole_window_keep_their_units():
    model = make_model("bart", encoder_layerdrop=1.0).train()
    train_bare(NeuroPrune(sparsity=0.3, calibration_rows=8), model, "bart")
    kept = kept_units(model)
    assert kept.heads[:2] == [[0, 1, 2, 3]] * 2 and [len(left) for left in kept.neurons[:2]] == [24, 24]
    assert measure_sparsity(model).weights == pytest.approx(0.3, abs=1e-3)


def test_nothing_is_measured_after_the_first_step_until_an_event_is_near():
    model = make_model("bert").train()
    method, run = NeuroPrune(sparsity=0.5, calibration_rows=8), make_run(model, steps=300)
    method.start(run)
    assert model._forward_pre_hooks
    take_step(method, run)
    assert_no_hooks(model)


@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(sparsity=0.5), NeuroPrune(alpha=0.1), DSP(heads=4)])
def test_an_optimizer_of_another_model_is_refused_at_the_start(method):
    run = make_run(make_model("bert"), steps=300)
    run.optimizer = torch.optim.AdamW(make_model("bert").parameters())
    with pytest.raises(UserError, match=r"optimizer \(AdamW\) lacks a trainable weight"):
        method.start(run)


class Blockwise(torch.optim.SGD):
    """Has a separate state for each weight, like 8-bit and low-rank optimizers."""

    def __init__(self, parameters, make):
        super().__init__(parameters, lr=1e-3)
        self.make = make

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["moment"] = self.make(parameter)


class Quantized(torch.Tensor):
    """A tensor with a different internal storage, like torchao's."""


STATES = {
    "scales of blocks": lambda weight: torch.zeros(-(-weight.numel() // 64)),
    "low rank": lambda weight: torch.zeros(2, weight.shape[-1]),
    "a subclass": lambda weight: torch.zeros(weight.shape).as_subclass(Quantized),
    "a list": lambda weight: [torch.zeros(len(weight), len(weight))],
    "a dictionary": lambda weight: {"left": [torch.zeros(3)]},
}


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_a_state_that_cannot_be_cut_is_refused_after_the_first_step(make):
    run, method = make_run(make_model("bert").train(), steps=300, scheduled=False), L1(sparsity=0.5)
    run.optimizer = Blockwise(run.model.parameters(), make)
    method.start(run)
    with pytest.raises(UserError, match=r"can't cut the state of Blockwise: 'moment' .* not an 8-bit or low-rank one"):
        take_step(method, run)


FOLLOWED = "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax Muon NAdam RAdam RMSprop Rprop SGD"
REFUSED = "LBFGS SparseAdam"  # the first by us, the second by torch


def test_every_optimizer_of_torch_is_known():
    found = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
    names = {kind.__name__ for kind in found if issubclass(kind, torch.optim.Optimizer)}
    assert names - {"Optimizer"} == {*FOLLOWED.split(), *REFUSED.split()}


@pytest.mark.parametrize("name", FOLLOWED.split())
def test_optimizers_of_torch_are_followed(name):
    run, method = make_run(make_model("bert").train(), steps=12, scheduled=False), NeuroPrune(sparsity=0.5)
    trained = [weight for weight in run.model.parameters() if name != "Muon" or weight.dim() == 2]  # only matrices
    run.model.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    run.optimizer = getattr(torch.optim, name)(trained, lr=1e-3)
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    method.finish(run)
    assert measure_sparsity(run.model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("make", [L1, NeuroPrune, CoFi])
def test_a_target_below_what_is_gone_is_refused_at_the_start(make):
    model = make_model("bert")
    remove(model, {0: [0, 1, 2], 1: [0, 1, 2]}, {0: range(20), 1: range(20)})
    with pytest.raises(UserError, match="have already been removed"):
        make(sparsity=0.5).start(make_run(model, steps=12))
    make(sparsity=0.9).start(make_run(model, steps=12))


def test_a_run_that_ends_early_says_so_and_leaves_no_hooks(caplog):
    model, method = make_model("bert").train(), NeuroPrune(sparsity=0.5)
    run = make_run(model, steps=100)
    method.start(run)
    for _ in range(28):
        take_step(method, run)
    with caplog.at_level(logging.WARNING):
        method.finish(run)
    assert "before the events" in caplog.text
    assert_no_hooks(model)


def test_going_on_with_a_cut_model_after_the_last_event():
    model = make_model("bert")
    train_bare(NeuroPrune(sparsity=0.613), model)
    zeros = [weight == 0 for weight in weights(model)]
    method, run = NeuroPrune(sparsity=0.613), make_run(model, steps=12)
    run.step = 8
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    assert all(torch.equal(weight == 0, zero) for weight, zero in zip(weights(model), zeros, strict=True))


def test_going_on_with_a_dense_model_after_the_last_event_is_refused():
    run = make_run(make_model("bert"), steps=12)
    run.step = 8
    with pytest.raises(UserError, match="from_pretrained"):
        NeuroPrune(sparsity=0.5).start(run)


@pytest.mark.parametrize("name", NAMES)
def test_dense_training_changes_no_shape(name):
    model = make_model(name)
    shapes = [parameter.shape for parameter in model.parameters()]
    train_bare(Dense(), model, name, steps=2)
    assert [parameter.shape for parameter in model.parameters()] == shapes


REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize("method", [DSP(heads=4), CoFi(sparsity=0.5)])
def test_reentrant_checkpointing_is_refused_where_masks_are_learned(method, tmp_path):
    trainer = make_trainer(method, make_model("bert"), tmp_path, **REENTRANT)
    with pytest.raises(UserError, match=r"learns masks, .*'use_reentrant': False"):
        trainer.train()
    assert trainer.state.global_step == 0
    model = make_model("bert")
    model.gradient_checkpointing_enable({"use_reentrant": True})  # as in a custom loop
    with pytest.raises(UserError, match="'use_reentrant': False"):
        method.start(make_run(model, steps=4))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    train_bare(method, model)


def fp16_trainer(method, folder, scale=2.0**16, **arguments):
    """A Trainer on the CPU that scales its loss as on a GPU."""
    trainer = make_trainer(method, make_model("bert"), folder, fp16=True, **arguments)
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


@pytest.mark.parametrize("method", [DSP(heads=4), CoFi(sparsity=0.5)])
def test_fp16_is_refused_where_masks_are_learned(method, tmp_path):
    trainer = fp16_trainer(method, tmp_path)
    with pytest.raises(UserError, match=r"\(fp16=True\): \w+ learns masks, .*; use bf16=True") as caught:
        trainer.train()
    assert trainer.state.global_step == 0 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "strength", [{"alpha": 1e-3, "beta": 1e-3}, {"alpha": 1e-3, "beta": 1e-3, "mode": "decoupled"}]
)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_penalties_in_fp16_need_clipping_if_they_are_added_to_gradients(strength, clip, tmp_path):
    trainer = fp16_trainer(NeuroPrune(**strength), tmp_path, max_grad_norm=clip)
    if clip or "mode" in strength:
        trainer.train()
    else:
        with pytest.raises(UserError, match=r"max_grad_norm=0\): the penalties would be added .* set max_grad_norm"):
            trainer.train()


@pytest.mark.parametrize("make", [NeuroPrune, Taylor, L1])
def test_the_other_methods_prune_in_fp16_although_steps_overflow(make, tmp_path):
    trainer = fp16_trainer(make(sparsity=0.5), tmp_path, 2.0**40)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() < 2.0**36  # steps have overflowed
    assert measure_sparsity(trainer.model).weights == pytest.approx(0.5, abs=1e-3)
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())


@pytest.mark.parametrize("method", [NeuroPrune(sparsity=0.5), Taylor(sparsity=0.5), L1(sparsity=0.5)])
def test_reentrant_checkpointing_goes_with_the_other_methods(method, tmp_path):
    model = make_model("bert")
    make_trainer(method, model, tmp_path, **REENTRANT).train()
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_the_batch_size_that_the_trainer_has_found_counts(tmp_path):
    method = NeuroPrune(sparsity=0.5, calibration_rows=8)

    class Model(type(make_model("bert"))):
        def forward(self, **inputs):
            if len(inputs["input_ids"]) > 2:
                raise RuntimeError("CUDA out of memory.")
            return super().forward(**inputs)

    model = make_model("bert")
    model.__class__ = Model
    trainer = make_trainer(method, model, tmp_path, auto_find_batch_size=True, remove_unused_columns=False)
    trainer.train()
    assert method.run.batch_size == trainer.state.train_batch_size <= 2 < trainer.args.train_batch_size


def test_the_batch_size_of_a_resumed_run_is_that_of_its_arguments(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    make_trainer(NeuroPrune(sparsity=0.5), make_model("bert"), tmp_path, **saving).train()
    method = NeuroPrune(sparsity=0.5)
    trainer = make_trainer(method, make_model("bert"), tmp_path, per_device_train_batch_size=2, **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert method.run.batch_size == 2


@pytest.mark.parametrize("make", [NeuroPrune, Taylor])
def test_no_units_are_chosen_while_the_loss_says_nothing(make):
    method, run = make(sparsity=0.5), make_run(make_model("bert").train(), steps=12)
    method.start(run)
    while run.step < 12:
        useless = 3 <= run.step < 9
        (run.model(**labelled_batch("bert", seed=run.step)).loss * (torch.nan if useless else 1.0)).backward()
        method.before_step(run)
        if not useless:
            run.optimizer.step()
        run.step += 1
        method.after_step(run)
        run.model.zero_grad()
        if run.step == 6:
            assert measure_sparsity(run.model).weights == pytest.approx(0.352, abs=0.02)  # the event at step 4
    method.finish(run)
    assert measure_sparsity(run.model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("forgotten", ["before_step", "run.step"])
def test_a_loop_that_forgets_a_hook_or_the_count_is_told(forgotten):
    method, run = Taylor(sparsity=0.5), make_run(make_model("bert").train(), steps=12)
    method.start(run)
    run.model(**labelled_batch("bert", seed=0)).loss.backward()
    if forgotten != "before_step":
        method.before_step(run)
    run.step += forgotten != "run.step"
    with pytest.raises(UserError, match=r"call before_step\(run\) before optimizer.step\(\) in every step"):
        method.after_step(run)
    method.abandon()


def test_a_model_that_has_diverged_is_reported(caplog):
    method, run = NeuroPrune(sparsity=0.5), make_run(make_model("bert").train(), steps=12)
    method.start(run)
    while run.step < 12:
        take_step(method, run)
    with torch.no_grad():
        run.model.classifier.weight[0, 0] = torch.nan
    method.finish(run)
    assert "classifier.weight has values that are not finite: training has diverged" in caplog.text


OPTIONS = [
    {"neftune_noise_alpha": 5.0},
    {"label_smoothing_factor": 0.1},
    {"auto_find_batch_size": True},
    {"eval_on_start": True, "eval_strategy": "epoch"},
    {"torch_empty_cache_steps": 2},
    {"full_determinism": True},
    {"optim": "adamw_torch_fused"},
    {"optim": "adafactor"},
    {"optim": "rmsprop"},
    {"bf16": True},
    {"debug": "underflow_overflow"},
    {"train_sampling_strategy": "group_by_length"},
    {"accelerator_config": {"split_batches": True}},
    {"activation_checkpointing": True},
    {"gradient_accumulation_steps": 3, "average_tokens_across_devices": True},
]


@pytest.mark.parametrize("make", [NeuroPrune, CoFi], ids=["neuroprune", "cofi"])
@pytest.mark.parametrize("arguments", OPTIONS, ids=lambda arguments: next(iter(arguments.values())))
def test_options_of_the_trainer_that_methods_can_bear(make, arguments, tmp_path):
    model = make_model("bert")
    make_trainer(make(sparsity=0.5), model, tmp_path, **arguments).train()
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("make", [NeuroPrune, Taylor, CoFi])
def test_question_answering_is_trained_by_the_callback(make, tmp_path):
    model = transformers.BertForQuestionAnswering(make_model("bert").config)
    trainer = make_trainer(make(sparsity=0.5), model, tmp_path)
    for row in trainer.train_dataset:
        row["start_positions"], row["end_positions"] = row.pop("labels"), row["input_ids"].new_tensor(3)
    trainer.train()
    neuroprune.save_pretrained(model, tmp_path / "saved")
    assert measure_sparsity(neuroprune.from_pretrained(tmp_path / "saved")).weights == pytest.approx(0.5, abs=1e-3)
    assert type(neuroprune.from_pretrained(tmp_path / "saved")) is transformers.BertForQuestionAnswering


def test_question_answering_has_no_teacher():
    model = transformers.BertForQuestionAnswering(make_model("bert").config)
    run, method = make_run(model.train(), steps=6), NeuroPrune(sparsity=0.5, calibration_rows=4, teacher="run")
    method.start(run)
    batch = make_batch() | {"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([1, 2, 3])}
    with pytest.raises(UserError, match=r"trained without labels .*\(as in question answering\); leave teacher out"):
        while run.step < 6:
            model(**batch).loss.backward()
            method.before_step(run)
            run.optimizer.step()
            run.step += 1
            method.after_step(run)
            run.optimizer.zero_grad()
    method.abandon()


@pytest.mark.parametrize("method", [NeuroPrune(sparsity=0.5), CoFi(sparsity=0.5), DSP(heads=4)])
def test_the_report_of_a_run_is_not_that_of_the_next(method):
    train_bare(method, make_model("bert"))
    first, text = method.report, repr(method.report)
    train_bare(method, make_model("bert", seed=1))
    assert first is not method.report and repr(first) == text


@pytest.mark.parametrize("through_json", [False, True])
def test_a_report_says_what_to_remove(through_json):
    model, method, again = make_model("bert"), NeuroPrune(sparsity=0.7), make_model("bert")
    train_bare(method, model)
    report = json.loads(json.dumps(method.report)) if through_json else method.report
    remove(again, heads=report["removed_heads"])
    assert kept_units(again).heads == kept_units(model).heads
    text = json.loads(json.dumps(dict(enumerate(method.report["removed_heads"]))))
    third = make_model("bert")
    remove(third, heads=text)
    assert kept_units(third).heads == kept_units(model).heads


def test_positions_of_layers_that_are_not_there_are_told():
    for heads in ([[0], [0], [0]], {"2": [0]}, {2: [0]}):
        with pytest.raises(UserError, match="attention 2 does not exist"):
            remove(make_model("bert"), heads=heads)
    with pytest.raises(UserError, match="'encoder' is not a number"):
        remove(make_model("bert"), heads={"encoder": [0]})
