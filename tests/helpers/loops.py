"""Short trainings of tiny models, in a bare PyTorch loop and in transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from helpers.models import ROWS, make_batch
from neuroprune.methods.callback import Method
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import prunable_projections


def labelled_batch(name: str, seed: int, rows: int = 4) -> dict[str, Tensor]:
    """A batch with labels: two classes, or the next tokens for generating models."""
    batch = make_batch(name, rows=rows, seed=seed)
    if ROWS[name].seq2seq:
        batch["labels"] = batch.pop("decoder_input_ids")
    elif ROWS[name].generates or name == "bert-decoder":
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    else:
        batch["labels"] = batch["input_ids"][:, 0] % 2
    return batch


def make_run(model: nn.Module, steps: int, scheduled: bool = True, lr: float = 1e-3, passes: int = 1) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, steps) if scheduled else None
    return Run(model, optimizer, scheduler, steps, max(1, steps // 2), batch_size=4 * passes)


def take_step(method: Method, run: Run, name: str = "bert", passes: int = 1) -> None:
    """Take one optimizer step of some passes like a user's custom loop."""
    for micro in range(passes):
        batch = labelled_batch(name, seed=run.step * passes + micro)
        (run.model(**batch).loss / passes).backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    method.before_step(run)
    run.optimizer.step()
    run.step += 1
    method.after_step(run)
    if run.scheduler is not None:
        run.scheduler.step()
    run.optimizer.zero_grad()


def train_bare(method: Method, model: nn.Module, name: str = "bert", steps: int = 12, **kwargs: Any) -> Run:
    """Train for some steps in two epochs."""
    run = make_run(model.train(), steps, **kwargs)
    method.start(run)
    while run.step < steps:
        take_step(method, run, name)
        if run.step % run.steps_per_epoch == 0:
            method.epoch_end(run)
    method.finish(run)
    return run


def make_trainer(
    method: Any, model: nn.Module, folder: Path, rows: int = 48, name: str = "bert", **arguments: Any
) -> Trainer:
    """A real Trainer on the CPU (generating for encoder-decoders) with two epochs and batches of four."""
    batches = [labelled_batch(name, seed=i, rows=1) for i in range(rows)]
    trainer_class, arguments_class = Trainer, TrainingArguments
    if ROWS[name].seq2seq:
        trainer_class, arguments_class = Seq2SeqTrainer, Seq2SeqTrainingArguments
        arguments = {"predict_with_generate": True, "generation_max_length": 4, **arguments}
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    data = [{key: value[0] for key, value in batch.items()} for batch in batches]
    return trainer_class(
        model,
        arguments_class(str(folder), **{**settings, **arguments}),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[method],
    )


def weights(model: nn.Module) -> list[Tensor]:
    """Return the prunable matrices."""
    return [projection.weight.detach() for projection in prunable_projections(find_blocks(model))]


def assert_optimizer_fits(run: Run) -> None:
    """Assert that the optimizer contains exactly the model's trainable parameters, with moments of the same shapes."""
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in run.model.parameters() if p.requires_grad} <= held
    assert held <= {id(p) for p in run.model.parameters()}
    for parameter, state in run.optimizer.state.items():
        assert id(parameter) in held
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape


def assert_no_hooks(model: nn.Module) -> None:
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not model._forward_pre_hooks
