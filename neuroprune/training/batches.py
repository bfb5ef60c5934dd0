"""Batch sampling by length, and gradient accumulation over passes and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from neuroprune import distributed
from neuroprune.methods.callback import Method
from neuroprune.pruning.defaults import IGNORED


class ShuffledLengthGroups(Sampler[int]):
    """Sampler whose batches contain rows of similar length, in random order.

    The order depends only on the seed and the epoch, so that a run can resume in any epoch.

    Args:
        lengths: Number of tokens of each row.
        batch_size: Rows per step.
        seed: Seed of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; called by the data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        full = len(order) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from order[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from order[full * self.batch_size :]  # the incomplete batch has to come last


class LengthGroups:
    """Mixin for Trainers that samples batches of rows of similar length in random order, which saves padding."""

    train_dataset: Any
    args: Any

    @property
    def _step_rows(self) -> int:
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return ShuffledLengthGroups([len(ids) for ids in rows["input_ids"]], self._step_rows, self.args.seed)


class StepParts(Sampler[list[int]]):
    """Batch sampler of one process that yields a list of row numbers for each pass of each step.

    Args:
        order: Sampler of all rows; its epoch is set here.
        step_rows: Rows per step.
        passes: Forward and backward passes per step in one process.
        process: Rank of this process.
        processes: Number of processes.
        epoch: Function that returns the starting epoch.
    """

    def __init__(
        self,
        order: ShuffledLengthGroups,
        step_rows: int,
        passes: int,
        process: int,
        processes: int,
        epoch: Callable[[], int],
    ) -> None:
        self._order, self._rows, self._passes, self._epoch = order, step_rows, passes, epoch
        self._process, self._processes = process, processes

    def __len__(self) -> int:
        return -(-len(self._order) // self._rows) * self._passes

    def __iter__(self) -> Iterator[list[int]]:
        self._order.set_epoch(self._epoch())
        order = iter(self._order)
        while rows := tuple(islice(order, self._rows)):
            yield from split(rows, self._passes * self._processes)[self._process :: self._processes]


def split(rows: tuple[int, ...], parts: int) -> list[list[int]]:
    """Split a step's rows into parts whose sizes differ by at most one.

    Args:
        rows: Row numbers, at least one.
        parts: Number of parts.

    Returns:
        The parts. If there are fewer rows than parts, each part has all rows, which does not change the mean.
    """
    return [list(rows[part::parts] if len(rows) >= parts else rows) for part in range(parts)]


class SplitSteps(LengthGroups):
    """Mixin for Trainers that splits a step's rows over processes and passes and computes the exact gradient.

    Gradients are accumulated over the passes and averaged over the processes after the last one.
    `DistributedDataParallel` is not used, because it keeps references to the original parameters, while pruning
    replaces them. The loss of a part is a mean over its targets and is weighted by their number.
    """

    model: Any
    state: Any
    accelerator: Any
    callback_handler: Any
    data_collator: Any
    _weights: list[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # each loss is a mean over its part; compute_loss weights it
        for method in self._methods():
            method.split_steps = True

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, without wrapping the model."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the data loader of this process's parts."""
        args = self.args
        parts = StepParts(
            self._get_train_sampler(),  # type: ignore[arg-type]
            self._step_rows,
            args.gradient_accumulation_steps,
            args.process_index,
            args.world_size,
            lambda: int(self.state.epoch or 0),
        )
        rows = self._remove_unused_columns(self.train_dataset, description="training")  # type: ignore[attr-defined]
        return DataLoader(
            rows, batch_sampler=parts, collate_fn=self.data_collator, pin_memory=args.dataloader_pin_memory
        )

    def _count_targets(self, inputs: dict[str, Any]) -> Tensor:
        """Return the number of labels over which the loss of a part is averaged."""
        if hasattr(self, "count_targets"):  # for Trainers whose labels are not the model's targets
            return self.count_targets(inputs)
        labels = inputs["labels"]
        return (labels[..., 1:] if getattr(self, "_loss_shifts_labels", False) else labels).ne(IGNORED).sum()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return this process's parts of a step; store their weights."""
        parts, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        targets = [float(self._count_targets(part)) for part in parts]
        rows = sum(len(part["labels"]) for part in parts)
        totals = torch.tensor([sum(targets), rows], dtype=torch.float64)
        distributed.average([totals])
        self._weights = [count * len(parts) / max(1.0, float(totals[0])) for count in targets]
        for method in self._methods():
            method.run.loss_rows = float(totals[1])
        return parts, items

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss; in training, weighted so that the mean over all parts is the loss of the whole step."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if self.model.training:
            loss = loss * self._weights.pop(0)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a pass; after the last one of a step, average the gradients over the processes."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.accelerator.sync_gradients:
            distributed.average(p.grad for p in self.model.parameters() if p.grad is not None)
        return loss

    def _methods(self) -> list[Method]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Method)]


def trainer_class(kind: type[Trainer], parts: int) -> type[Trainer]:
    """Return a Trainer class whose steps use rows of similar length.

    Args:
        kind: The class to extend.
        parts: Number of parts of a step's rows: processes times passes.

    Returns:
        The class.
    """
    return type("StepTrainer", (SplitSteps if parts > 1 else LengthGroups, kind), {})
