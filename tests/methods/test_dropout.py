"""Dropout after the last event: reduced in every architecture, restored at the end, and again after an interruption."""

import torch
from torch import nn

from helpers.loops import make_run, make_trainer, take_step
from helpers.models import each_model, logits, make_batch, make_model
from neuroprune.methods.components.dropout import ScaledDropout, dropout_rates
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.pruning.sparsity import event_steps

STEPS = 8
LAST = max(event_steps(STEPS, 1 / 3, 1 / 2, 3))


class Mixed(nn.Module):
    """A module with a dropout layer, two rates kept as numbers, and numbers that are no rates."""

    def __init__(self):
        super().__init__()
        self.drop, self.attention_dropout, self.dropout = nn.Dropout(0.1), 0.2, 0.0
        self.layerdrop, self.scale, self.dropout_layers = 0.3, 0.4, 5


def test_only_rates_of_dropout_above_zero_are_found():
    model = Mixed()
    assert list(dropout_rates(model)) == [(model, "attention_dropout", 0.2), (model.drop, "p", 0.1)]


def test_rates_are_multiplied_once_and_restored():
    model, dropout = Mixed(), ScaledDropout(0.5)
    for _ in range(2):
        dropout.begin(model)
        assert (model.drop.p, model.attention_dropout, model.layerdrop) == (0.05, 0.1, 0.3)
    for _ in range(2):
        dropout.release()
        assert (model.drop.p, model.attention_dropout) == (0.1, 0.2)


def test_a_factor_of_one_changes_nothing():
    model, dropout = Mixed(), ScaledDropout(1.0)
    dropout.begin(model)
    assert model.drop.p == 0.1


@each_model
def test_with_factor_zero_a_model_in_training_mode_is_deterministic_until_the_end(name):
    model = make_model(name)
    usual = list(dropout_rates(model))
    method, run = NeuroPrune(sparsity=0.5, post_dropout=0), make_run(model.train(), steps=STEPS)
    method.start(run)
    while run.step < LAST:
        assert list(dropout_rates(model)) == usual
        take_step(method, run, name)
    batch = make_batch(name)
    assert torch.equal(logits(model, batch), logits(model, batch))
    method.finish(run)
    assert list(dropout_rates(model)) == usual


def test_a_run_that_resumes_after_the_last_event_reduces_dropout_again():
    method, run = NeuroPrune(sparsity=0.5, post_dropout=0), make_run(make_model("bert").train(), steps=STEPS)
    method.start(run)
    while run.step < LAST:
        take_step(method, run)
    state = method.state_dict()
    method.abandon()
    assert list(dropout_rates(run.model))
    again = NeuroPrune(sparsity=0.5, post_dropout=0)
    again.resume(run, state)
    assert not list(dropout_rates(run.model))
    again.abandon()
    assert list(dropout_rates(run.model))


def test_the_trainer_restores_dropout(tmp_path):
    model = make_model("bert")
    usual = list(dropout_rates(model))
    make_trainer(NeuroPrune(sparsity=0.5, post_dropout=0.5), model, tmp_path).train()
    assert usual and list(dropout_rates(model)) == usual
