"""A user's own Trainer whose pruning run costs as much as dense fine-tuning."""

import json

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from helpers.loops import make_trainer, weights
from helpers.models import make_model
from neuroprune import CoFi, NeuroPrune, Taylor, at_dense_cost
from neuroprune.errors import UserError
from neuroprune.methods.dense import Dense
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.training.budget import COSTS


def prune(folder, method=None, stop=None, **arguments):
    """Build the Trainer for 24 dense steps in 2 epochs; `stop` is a callback."""
    method = NeuroPrune(sparsity=0.8, calibration_rows=8) if method is None else method
    trainer = at_dense_cost(make_trainer(method, make_model("bert"), folder, logging_steps=1, **arguments))
    if stop is not None:
        trainer.add_callback(stop)
    return trainer, method


def costs_of(trainer):
    return trainer.callback_handler.callbacks[0]._plan.costs


@pytest.mark.parametrize("method", [NeuroPrune(sparsity=0.8, calibration_rows=8), Taylor(sparsity=0.8)])
def test_saved_operations_are_spent_on_more_steps(method, tmp_path):
    trainer, _ = prune(tmp_path, method)
    trainer.train()
    assert [event["step"] for event in method.report["events"]] == [8, 10, 12]  # as in a run of 24 steps
    assert measure_sparsity(trainer.model).weights == pytest.approx(0.8, abs=1e-3)
    starts, costs = zip(*costs_of(trainer), strict=True)
    assert starts == (0, 8, 10, 12) and list(costs) == sorted(costs, reverse=True)
    total = trainer.state.global_step
    lengths = [after - before for before, after in zip(starts, [*starts[1:], total], strict=True)]
    spent = sum(length * cost for length, cost in zip(lengths, costs, strict=True))
    assert 24 * costs[0] - costs[-1] <= spent <= 24 * costs[0] and total > 30
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:8] == pytest.approx([1e-3 * (1 - step / 24) for step in range(8)])
    assert 0 < rates[-1] < 0.1 * max(rates)


def test_a_number_of_steps_is_the_length_of_dense_fine_tuning_too(tmp_path):
    first, one = prune(tmp_path / "epochs")
    first.train()
    second, other = prune(tmp_path / "steps", max_steps=24)
    second.train()
    assert one.run.steps_per_epoch == other.run.steps_per_epoch == 12
    assert second.state.global_step == first.state.global_step > 30
    assert all(map(torch.equal, weights(first.model), weights(second.model)))


def test_passes_that_are_left_over_in_an_epoch_are_a_step(tmp_path):
    trainer, _ = prune(tmp_path, Dense(), gradient_accumulation_steps=5)
    trainer.train()
    assert trainer.state.global_step == 6  # 12 batches an epoch


def test_the_rows_per_second_are_those_of_the_steps_taken(tmp_path):
    trainer, _ = prune(tmp_path, gradient_accumulation_steps=2, stop=StopAt(10))
    metrics = trainer.train().metrics
    rows = 10 * 2 * trainer.args.train_batch_size
    assert metrics["train_samples_per_second"] == pytest.approx(rows / metrics["train_runtime"], rel=1e-3)
    assert trainer.state.log_history[-1]["train_samples_per_second"] == metrics["train_samples_per_second"]


def test_the_rows_per_second_are_those_of_the_batch_size_that_was_found(tmp_path):
    trainer, _ = prune(tmp_path, Dense(), auto_find_batch_size=True, per_device_train_batch_size=8)
    compute_loss = trainer.compute_loss

    def little_memory(model, inputs, **options):
        if len(inputs["labels"]) > 4:
            raise RuntimeError("CUDA out of memory.")
        return compute_loss(model, inputs, **options)

    trainer.compute_loss = little_memory
    metrics = trainer.train().metrics
    rows = 4 * trainer.state.global_step
    assert metrics["train_samples_per_second"] == pytest.approx(rows / metrics["train_runtime"], rel=1e-2)


def test_a_loss_may_divide_by_the_number_of_labels_in_a_step(tmp_path):
    trainer, method = prune(tmp_path, gradient_accumulation_steps=2)
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: (
        torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch
    )
    trainer.train()
    assert [event["step"] for event in method.report["events"]] == [4, 5, 6] and trainer.state.global_step > 15


def test_a_loss_that_needs_gradients_is_refused_at_the_start(tmp_path):
    trainer, _ = prune(tmp_path)
    compute_loss = trainer.compute_loss

    def sharpest(model, inputs, **options):
        loss = compute_loss(model, inputs, **options)
        torch.autograd.grad(loss, model.get_input_embeddings().weight, retain_graph=True)
        return loss

    trainer.compute_loss = sharpest
    with pytest.raises(UserError, match="this Trainer's compute_loss needs them; leave out at_dense_cost"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_users_arguments_are_unchanged(tmp_path):
    trainer = make_trainer(NeuroPrune(sparsity=0.8), make_model("bert"), tmp_path, max_steps=24)
    args, before = trainer.args, trainer.args.to_dict()
    at_dense_cost(trainer)
    assert args.to_dict() == before
    assert (trainer.args.num_train_epochs, trainer.args.max_steps) == (100 * args.num_train_epochs, 2400)
    trainer.train()
    assert args.to_dict() == before


@pytest.mark.parametrize("make", [NeuroPrune, CoFi])
@pytest.mark.parametrize("later", [False, True])
def test_a_teacher_is_refused(make, later, tmp_path):
    method = make(sparsity=0.8, teacher="run")
    trainer, _ = prune(tmp_path, TrainerCallback() if later else method, stop=method if later else None)
    with pytest.raises(UserError, match=f"^{make.__name__} has a teacher, whose forward passes .* does not count"):
        trainer.train()
    assert trainer.state.global_step == 0


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        while True:
            yield from self.rows


def test_a_stream_of_rows_can_be_read_for_longer(tmp_path):
    trainer, method = prune(tmp_path, max_steps=24)
    trainer.train_dataset = Stream(trainer.train_dataset)
    trainer.train()
    assert [event["step"] for event in method.report["events"]] == [8, 10, 12] and trainer.state.global_step > 30


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [6, 11, 20], ids=["before", "between", "after"])
def test_a_resumed_run_ends_where_it_would_have_ended(step, tmp_path):
    whole, _ = prune(tmp_path / "whole")
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 1}
    prune(tmp_path / "parts", stop=StopAt(step), **saving)[0].train()
    resumed, _ = prune(tmp_path / "parts", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{step}"))
    assert resumed.state.global_step == whole.state.global_step
    assert costs_of(resumed) == costs_of(whole)
    assert all(map(torch.equal, weights(resumed.model), weights(whole.model)))


def test_a_cut_model_without_the_cost_of_its_earlier_steps_is_rejected(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1}
    prune(tmp_path, stop=StopAt(11), **saving)[0].train()
    written = tmp_path / "checkpoint-11" / COSTS
    assert len(json.loads(written.read_text())["costs"]) == 3
    written.write_text("{")
    with pytest.raises(UserError, match=r"dense_cost\.json: the file can't be read \(.*\); resume from another"):
        prune(tmp_path, **saving)[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-11"))
    written.unlink()
    with pytest.raises(UserError, match=r"checkpoint-11.dense_cost\.json: not found, .* resume without at_dense_cost"):
        prune(tmp_path, **saving)[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-11"))


def test_a_model_cut_in_its_hidden_size_alone_counts_as_cut(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1}
    prune(tmp_path, Dense(), stop=StopAt(2), **saving)[0].train()
    (tmp_path / "checkpoint-2" / COSTS).unlink()
    trainer, _ = prune(tmp_path, Dense(), **saving)
    remove_hidden(trainer.model, torch.arange(trainer.model.config.hidden_size - 4))
    trainer.state.global_step = 2
    budget = trainer.callback_handler.callbacks[0]
    with pytest.raises(UserError, match=r"dense_cost\.json: not found, so the cost of the steps before"):
        budget._earlier_costs(trainer.args, trainer.state, trainer.model)


def test_only_a_linear_schedule_is_stretched(tmp_path):
    with pytest.raises(UserError, match="lr_scheduler_type is cosine; leave it out of the arguments"):
        prune(tmp_path, lr_scheduler_type="cosine")
    trainer, _ = prune(tmp_path)
    trainer.optimizer = AdamW(trainer.model.parameters())
    trainer.lr_scheduler = StepLR(trainer.optimizer, 1)
    with pytest.raises(UserError, match="the Trainer was given a StepLR; leave it out"):
        trainer.train()


def test_a_trainer_is_prepared_once(tmp_path):
    trainer, _ = prune(tmp_path)
    with pytest.raises(UserError, match="trains at the cost of dense fine-tuning already"):
        at_dense_cost(trainer)


@pytest.mark.parametrize("change", [{"num_train_epochs": 3}, {"max_steps": 30}])
def test_a_length_that_is_changed_later_is_rejected(change, tmp_path):
    trainer, _ = prune(tmp_path)
    for name, value in change.items():
        setattr(trainer.args, name, value)
    with pytest.raises(UserError, match="num_train_epochs or max_steps has changed since; set it first"):
        trainer.train()
