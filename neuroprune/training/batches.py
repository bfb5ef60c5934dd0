"""Which rows a training step reads, and how its rows are split over processes and passes."""

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


class ShuffledLengthGroups(Sampler[int]):
    """Yields row numbers so that each batch has rows of similar length and batches come in random order.

    The order follows from the seed and the epoch alone, so a run can go on in any epoch.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a step.
        seed: Of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; the data loader does."""
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
    """Makes a Trainer's batches of rows of similar length, in random order: little is padded, no stretch is long."""

    train_dataset: Any
    args: Any

    @property
    def _step_rows(self) -> int:
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return ShuffledLengthGroups([len(ids) for ids in rows["input_ids"]], self._step_rows, self.args.seed)


class StepParts(Sampler[list[int]]):
    """Yields what one process reads of every step: one list of row numbers a pass.

    Args:
        order: All rows in their order; its epoch is set.
        step_rows: Rows of a step.
        passes: Forward and backward passes of a step in one process.
        process: Number of this process.
        processes: How many there are.
        epoch: Tells which epoch begins.
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
        rows: At least one.
        parts: How many.

    Returns:
        The parts; none is empty: if there are fewer rows than parts, each part has all of them, with the same mean.
    """
    return [list(rows[part::parts] if len(rows) >= parts else rows) for part in range(parts)]


class SplitSteps(LengthGroups):
    """Makes a Trainer read a step's rows in parts, over processes and passes, with the gradient of the whole step.

    Gradients are added up over the passes and averaged over the processes after the last, without
    `DistributedDataParallel`: that holds on to the parameters it began with, while here weights change their shapes.
    A part's loss, a mean over what it predicts, counts by how much that is.
    """

    model: Any
    state: Any
    accelerator: Any
    callback_handler: Any
    data_collator: Any
    _weights: list[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # each loss is a mean over its part; weights follow below
        for method in self._methods():
            method.split_steps = True

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; it is not to wrap the model."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's parts of all steps."""
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
        """Return over how many labels the loss of a part is a mean."""
        if hasattr(self, "count_targets"):  # of a Trainer whose labels are not what the model is to predict
            return self.count_targets(inputs)
        labels = inputs["labels"]
        return (labels[..., 1:] if getattr(self, "_loss_shifts_labels", False) else labels).ne(-100).sum()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return this process's parts of a step; note what each counts."""
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
        """Return the loss; in training, weighed so that the mean over all parts is the loss of the whole step."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if self.model.training:
            loss = loss * self._weights.pop(0)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a pass; after the last of a step, average the gradients over the processes."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.accelerator.sync_gradients:
            distributed.average(p.grad for p in self.model.parameters() if p.grad is not None)
        return loss

    def _methods(self) -> list[Method]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Method)]


def trainer_class(kind: type[Trainer], parts: int) -> type[Trainer]:
    """Return a Trainer class whose steps read rows of similar length.

    Args:
        kind: The class to extend.
        parts: In how many parts a step's rows are read, processes times passes.

    Returns:
        The class.
    """
    return type("StepTrainer", (SplitSteps if parts > 1 else LengthGroups, kind), {})
