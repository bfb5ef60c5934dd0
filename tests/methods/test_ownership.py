"""An interrupted run does not affect the next one; two simultaneous methods are rejected."""

import copy

import pytest
import torch
from transformers import TrainerCallback

from helpers.loops import assert_no_hooks, make_run, make_trainer, take_step, train_bare
from helpers.models import make_model
from neuroprune.errors import UserError
from neuroprune.methods import DSP, L1, CoFi, NeuroPrune, Taylor
from neuroprune.methods.components.ownership import HOLD
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove


class Stop(TrainerCallback):
    """Interrupt training once, like a keyboard interrupt or an out-of-memory error."""

    def __init__(self, step, error=KeyboardInterrupt):
        self.step, self.error = step, error

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.step = None
            raise self.error


def interrupt(method, model, folder, step=7, **arguments):
    trainer = make_trainer(method, model, folder, **arguments)
    trainer.add_callback(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


def in_window():
    return NeuroPrune(sparsity=0.5, calibration_rows=8)  # of 24 steps: events at 8, 10 and 12


METHODS = {
    "neuroprune": (in_window, 7),
    "after the last event": (in_window, 15),
    "dsp": (lambda: DSP(heads=4), 3),
    "pipelined": (lambda: DSP(heads=4, stage="pipelined"), 3),
    "cofi": (lambda: CoFi(sparsity=0.5), 12),
    "l1": (lambda: L1(sparsity=0.5), 15),
}
each_method = pytest.mark.parametrize(("make", "step"), METHODS.values(), ids=METHODS)


def assert_clean(model):
    assert_no_hooks(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@each_method
def test_training_again_starts_clean(make, step, tmp_path):
    model, method = make_model("bert"), make()
    trainer = interrupt(method, model, tmp_path, step)
    trainer.train()
    assert_clean(model)
    undisturbed = make()
    make_trainer(undisturbed, make_model("bert"), tmp_path).train()
    steps = [event["step"] for event in undisturbed.report["events"]]
    assert steps and [event["step"] for event in method.report["events"]] == steps  # none left of the interrupted run


@each_method
def test_so_does_another_trainer_with_another_method(make, step, tmp_path):
    model = make_model("bert")
    interrupt(make(), model, tmp_path, step)
    trainer = make_trainer(L1(sparsity=0.7), model, tmp_path)
    trainer.train()
    assert_clean(model)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters()} == held  # what was frozen is trained again
    assert measure_sparsity(model).weights == pytest.approx(0.7, abs=1e-3)


def test_layers_that_an_interrupted_run_has_frozen_are_not_refused():
    model = make_model("bert").train()
    DSP(heads=4, stage="pipelined").start(make_run(model, steps=12))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    train_bare(L1(sparsity=0.5), model)
    assert_clean(model)


@each_method
def test_a_method_can_abandon_its_run_at_any_time(make, step, tmp_path):
    model, method = make_model("bert"), make()
    method.abandon()
    interrupt(method, model, tmp_path, step)
    method.abandon()
    method.abandon()
    assert_clean(model)


def test_a_trainer_that_begins_anew_with_a_smaller_batch_starts_clean(tmp_path):
    model, method = make_model("bert"), in_window()
    trainer = make_trainer(method, model, tmp_path, auto_find_batch_size=True)
    trainer.add_callback(Stop(7, torch.OutOfMemoryError("CUDA out of memory.")))
    trainer.train()
    assert_clean(model)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_a_copy_of_a_model_in_training_is_held_by_nobody():
    model, method = make_model("bert"), L1(sparsity=0.5)
    method.start(make_run(model, steps=4))
    assert model.__dict__[HOLD].method is method
    copied = copy.deepcopy(model)
    assert copied.__dict__[HOLD] is None
    train_bare(DSP(heads=4), copied, steps=4)
    assert model.__dict__[HOLD].method is method


@pytest.mark.parametrize("second", [lambda: L1(sparsity=0.8), lambda: in_window(), lambda: DSP(heads=3)])
def test_two_methods_on_one_trainer_are_refused(second, tmp_path):
    model, first = make_model("bert"), in_window()
    trainer = make_trainer(first, model, tmp_path)
    other = second()
    trainer.add_callback(other)
    with pytest.raises(UserError, match=r"both prune.*one of them"):
        trainer.train()
    trainer.remove_callback(other)
    trainer.train()
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_two_methods_in_one_loop_are_refused_and_one_after_the_other_are_not():
    model = make_model("bert").train()
    run = make_run(model, steps=12)
    first, second = L1(sparsity=0.3), Taylor(sparsity=0.5, calibration_rows=4)
    first.start(run)
    with pytest.raises(UserError, match="L1 and Taylor"):
        second.start(run)
    take_step(first, run)
    second.start(run)  # the first was interrupted
    while run.step < 12:
        take_step(second, run)
    second.finish(run)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("refused", [lambda: NeuroPrune(heads=9), lambda: DSP(heads=9), lambda: CoFi(sparsity=0.2)])
def test_a_refused_start_leaves_the_model_free(refused):
    model = make_model("bert")
    remove(model, {0: [0, 1, 2], 1: [0, 1, 2]}, {0: range(20), 1: range(20)})
    run, other = make_run(model, steps=4), L1(sparsity=0.9)
    with pytest.raises(UserError, match=r"heads|already been removed"):
        refused().start(run)
    assert_clean(model)
    other.start(run)  # the same training


def test_a_method_that_moves_to_another_model_leaves_nothing_on_the_first():
    first, second, method = make_model("bert"), make_model("bert"), DSP(heads=4, stage="pipelined")
    method.start(make_run(first, steps=4))
    method.start(make_run(second, steps=4))
    assert_clean(first)
    train_bare(L1(sparsity=0.5), first, steps=4)
    assert not any(parameter.requires_grad for parameter in second.parameters())


def test_training_twice_in_turn_is_no_trouble(tmp_path):
    model = make_model("bert")
    for sparsity in (0.3, 0.5):
        make_trainer(NeuroPrune(sparsity=sparsity, calibration_rows=8), model, tmp_path).train()
        assert measure_sparsity(model).weights == pytest.approx(sparsity, abs=1e-3)
