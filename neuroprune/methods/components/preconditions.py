"""Checks at the start of a run that reject unsupported set-ups, which would fail later or give wrong results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Adafactor, Optimizer

from neuroprune import distributed
from neuroprune.errors import UserError
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block, Blocks, config_of
from neuroprune.pruning.cuts import Cut, check_can_follow, refuse_shared
from neuroprune.pruning.sparsity import prunable_projections, prunable_weights, removed_weights

logger = logging.getLogger(__name__)


def check_trainer(args: Any, split_steps: bool, settles: bool, taught: bool) -> None:
    """Reject arguments of the Trainer that are incompatible with weights that change their shapes.

    Warn of a best model that can't be found.

    Args:
        args: The Trainer's arguments.
        split_steps: Whether the caller averages gradients over processes.
        settles: Whether the model's shapes become final before the end of training; see `hooks.Hooks`.
        taught: Whether a teacher replaces the labels.

    Raises:
        UserError: If an incompatible argument is set.
    """
    if taught and args.label_smoothing_factor:
        raise UserError(
            f"TrainingArguments(label_smoothing_factor={args.label_smoothing_factor:g}): the Trainer then computes the "
            "loss itself, without the teacher; set it to 0, or leave teacher out."
        )
    if args.n_gpu > 1 or (args.world_size > 1 and not split_steps):
        raise UserError(
            f"{max(args.world_size, args.n_gpu)} devices are in use, but DataParallel and DistributedDataParallel "
            "do not support a model that is cut while it trains: start one process and set CUDA_VISIBLE_DEVICES to one "
            "device, or let a study train with `processes`."
        )
    if args.load_best_model_at_end and not settles:
        raise UserError(
            "TrainingArguments(load_best_model_at_end=True) would load weights of a larger model into the cut one, "
            "because this method removes units until the end of training; set it to False, or use a method with a "
            "target such as NeuroPrune(sparsity=0.8)."
        )
    for name in ("deepspeed", "fsdp"):
        if getattr(args, name, None):
            raise UserError(
                f"TrainingArguments({name}=…): {name} stores weights or moments separately, which "
                "does not work with a model that is cut while it trains; leave it out."
            )
    if getattr(args, "parallelism_config", None):
        raise UserError(
            "TrainingArguments(parallelism_config=…): weights or sequences are split over devices, which does "
            "not work with a model that is cut while it trains; leave it out."
        )
    if getattr(args, "torch_compile", False):
        raise UserError(
            "TrainingArguments(torch_compile=True): a compiled model can't be measured or masked while it is "
            "pruned; set it to False, and compile the pruned model."
        )
    if getattr(args, "enable_jit_checkpoint", False):
        raise UserError(
            "TrainingArguments(enable_jit_checkpoint=True): the checkpoint that transformers writes at a SIGTERM lacks "
            "the method's state; leave it out, and save at regular intervals (save_strategy='steps')."
        )
    if not settles and args.metric_for_best_model:
        logger.warning(
            "TrainingArguments(metric_for_best_model=%r): this method removes units until the end of training, so that "
            "no earlier model counts as the best, and an EarlyStoppingCallback never stops training.",
            args.metric_for_best_model,
        )


def check_not_reentrant(model: nn.Module, method: str) -> None:
    """Reject reentrant activation checkpointing for methods that multiply learned masks into the model.

    Its backward pass traverses a mask once per layer, which autograd allows only once.

    Args:
        model: The model of a run.
        method: Name of the method.

    Raises:
        UserError: If a module of the model uses it.
    """
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        used = getattr(module, "gradient_checkpointing", False)
        if used and getattr(function, "keywords", {}).get("use_reentrant"):
            raise UserError(
                f"{method} learns masks, which reentrant activation checkpointing can't differentiate; set "
                "gradient_checkpointing_kwargs={'use_reentrant': False} (activation_checkpointing_kwargs in newer "
                "versions of transformers)."
            )


def check_unscaled(optimizer: Any, args: Any, method: str, learns_masks: bool, adds_gradients: bool) -> None:
    """Reject fp16 training where gradients stay scaled: the Trainer unscales those in the optimizer, to clip them.

    Args:
        optimizer: The Trainer's optimizer, in accelerate's wrapper.
        args: The Trainer's arguments.
        method: Name of the method.
        learns_masks: Whether the method trains parameters of its own.
        adds_gradients: Whether it adds to the gradients of the weights.

    Raises:
        UserError: If a gradient scaler is in use, and the method learns masks, or adds to gradients without clipping.
    """
    if getattr(optimizer, "scaler", None) is None:
        return
    if learns_masks:
        raise UserError(
            f"TrainingArguments(fp16=True): {method} learns masks, whose gradients would stay multiplied by the scale "
            "of fp16 training; use bf16=True, or train in full precision."
        )
    if adds_gradients and not args.max_grad_norm:
        raise UserError(
            "TrainingArguments(fp16=True, max_grad_norm=0): the penalties would be added to gradients that are still "
            "multiplied by the scale of fp16 training, and vanish; set max_grad_norm above 0, or use bf16=True."
        )


def check_not_compiled(model: nn.Module) -> None:
    """Reject a model that is compiled, as a whole or in parts: hooks do not run, and names of weights are others.

    Args:
        model: The model of a run.

    Raises:
        UserError: If it or one of its modules was compiled by `torch.compile`, or it by its `compile` method.
    """
    compiled = any(hasattr(module, "_orig_mod") for module in model.modules())
    if compiled or getattr(model, "_compiled_call_impl", None) is not None:
        raise UserError(
            "the model is compiled, and a compiled model can't be measured or masked while it is pruned; pass "
            "the uncompiled model, and compile the pruned one."
        )


def check_weights(model: nn.Module, blocks: Blocks) -> None:
    """Reject prunable weights that are shared by layers or not on the device where they are used.

    Args:
        model: The model of a run.
        blocks: Its blocks.

    Raises:
        UserError: If there is such a weight, because methods choose units separately for each layer and change weights
            in place.
    """
    names = {module: name for name, module in model.named_modules()}
    places: dict[Any, list[tuple[nn.Module, int]]] = {}
    for projection in prunable_projections(blocks):
        places.setdefault(projection.module.weight, []).append((projection.module, projection.part))
    for module in names:
        weight = module._parameters.get("weight")
        if weight in places and (module, 0) not in places[weight]:
            places[weight].append((module, 0))
    for weight, [(first, part), *others] in places.items():
        for other, other_part in others:
            if other is not first or other_part == part:
                refuse_shared(names, first, "weight", other)
        if weight.is_meta:
            raise UserError(
                f"{names[first]} is on the meta device: accelerate keeps its weight elsewhere; load the model without "
                "device_map, on one device."
            )


def check_used(run: Run) -> None:
    """Reject attentions and MLPs that the forward pass does not use, at the first step instead of at a removal.

    Args:
        run: A run with the gradients of its first step. Without gradients, or with layerdrop, the check is skipped.

    Raises:
        UserError: If no gradient reached any trainable weight of an attention or MLP.
    """
    if may_skip(run) or all(parameter.grad is None for parameter in run.model.parameters()):
        return
    unused = []
    for block in run.blocks.all:
        weights = [projection.module.weight for projection in (*block.inputs, block.output)]
        if any(w.requires_grad for w in weights) and not any(w.grad is not None for w in weights):
            unused.append(block.name)
    if unused:
        raise UserError(
            f"no gradient reached {_first_of(unused)} in the first step: the loss does not depend on it, because the "
            "forward pass does not run it (a cross-attention without encoder_hidden_states, a layer beyond "
            "config.num_hidden_layers). Load the model without it (add_cross_attention=False, num_hidden_layers=…)."
        )


def check_not_frozen(blocks: Iterable[Block]) -> None:
    """Reject frozen attentions and MLPs, because methods rank all units together and would change these as well.

    Args:
        blocks: The blocks whose units are to be removed.

    Raises:
        UserError: If a weight of a block with remaining units lacks `requires_grad`.
    """
    frozen = [
        block.name
        for block in blocks
        if block.units and not all(p.parameter.requires_grad for p in (*block.inputs, block.output))
    ]
    if frozen:
        raise UserError(
            f"weights of {_first_of(frozen)} are frozen, but pruning would change them. Unfreeze them with "
            "requires_grad_(True); to prune a layer without training it, give its parameters a learning rate of 0."
        )


def check_can_cut(optimizer: Optimizer, blocks: Iterable[Block]) -> None:
    """Reject an optimizer that does not support the removal of units; call at the start and once its state exists.

    Args:
        optimizer: The optimizer of a run.
        blocks: The blocks whose units are to be removed.

    Raises:
        UserError: If it lacks a weight that has `requires_grad`, or its state has tensors of unknown shapes or kinds.
    """
    check_can_follow(optimizer, _cuts(blocks))


def _cuts(blocks: Iterable[Block]) -> list[Cut]:
    """List cuts of all weights that belong to the units of these blocks."""
    nothing = torch.empty(0, dtype=torch.long)
    outs = [Cut(projection.module, "out", nothing) for block in blocks for projection in block.inputs]
    return outs + [Cut(block.output.module, "in", nothing) for block in blocks]


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def skips_layers(model: nn.Module) -> bool:
    """Return whether training steps may skip whole layers at random (layerdrop)."""
    names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
    config = config_of(model)
    return any(getattr(config, name, 0.0) for name in names)


def may_skip(run: Run) -> bool:
    """Return whether no gradient may reach some block: a layer is skipped at random, or what it feeds is empty."""
    return skips_layers(run.model) or any(not block.units for block in run.blocks.all)


def check_target(model: nn.Module, sparsity: float) -> None:
    """Reject a target below the model's sparsity, because removed units can't be restored.

    Args:
        model: The model of a run.
        sparsity: Target, a fraction of the prunable weights.

    Raises:
        UserError: If more weights have already been removed.
    """
    gone, total = removed_weights(model), prunable_weights(model)
    if gone > round(sparsity * total):
        raise UserError(
            f"sparsity={sparsity:g}: {gone / total:.1%} of the weights have already been removed; choose a higher "
            "target, or start from the dense model."
        )


def check_has_rate(run: Run, setting: str) -> None:
    """Reject an optimizer without learning rates, as is possible for Adafactor.

    Args:
        run: The run.
        setting: The setting that needs a rate.

    Raises:
        UserError: If the rate of a parameter group is None.
    """
    if _lacks_rate(run.optimizer):
        raise UserError(
            f"{setting} needs the learning rate of every step, but {type(run.optimizer).__name__} has none (lr=None); "
            "give the optimizer a rate, or use another one."
        )


def check_training_mode(model: nn.Module, method: str) -> None:
    """Reject steps in evaluation mode for methods that learn masks, which are then neither drawn nor learned.

    Args:
        model: The model of a run.
        method: Name of the method.

    Raises:
        UserError: If the model is in evaluation mode.
    """
    if not model.training:
        raise UserError(
            f"the model is in evaluation mode, in which {method} does not learn masks; call model.train() before the "
            "forward pass."
        )


def check_same_gradients(run: Run) -> None:
    """Reject gradients that differ between processes, which would train a different model in each of them.

    Args:
        run: A run with the gradients of a step.

    Raises:
        UserError: If they differ, in all processes.
    """
    projections = prunable_projections(run.blocks)
    grads = [grad for projection in projections if (grad := projection.grad) is not None]
    sums = torch.tensor([[float(grad.sum()), float(grad.abs().sum())] for grad in grads], dtype=torch.float64)
    mean = sums.clone()
    distributed.average([mean])
    distributed.add_up([different := torch.tensor(float(((mean - sums).abs() > 1e-6 * mean[:, 1:].abs()).sum()))])
    if different:
        raise UserError(
            "gradients differ between processes: DistributedDataParallel does not follow a model that is cut while it "
            "trains. Average the gradients of the model itself over the processes before before_step, or train in one "
            "process."
        )


def warn_if_not_finite(model: nn.Module) -> None:
    """Log a warning if a trained model has a parameter with NaN or infinite values."""
    name = next((name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())), None)
    if name is not None:
        logger.warning("%s has values that are not finite: training has diverged, and the model is of no use.", name)


def check_rate(run: Run, setting: str, factor: float) -> None:
    """Reject a raised learning rate for optimizers whose step size is not their parameter groups' rate.

    Args:
        run: The run.
        setting: Name of the setting that raises the rate.
        factor: Its value; 1 changes nothing.

    Raises:
        UserError: If the rate is None, as is possible for Adafactor, or is only one of several bounds on the step size.
    """
    optimizer, name = run.optimizer, type(run.optimizer).__name__
    if factor == 1:
        return
    if _lacks_rate(optimizer):
        raise UserError(
            f"{setting}={factor:g}: {name} has no learning rate to raise (lr=None); set {setting}=1, or give the "
            "optimizer a rate."
        )
    if not hasattr(optimizer, "register_step_pre_hook"):
        raise UserError(f"{setting}={factor:g}: {name} is not a torch.optim.Optimizer; set {setting}=1, or use one.")
    largest = factor * max(run.group_peaks())
    if isinstance(optimizer, Adafactor) and largest > run.total_steps**-0.5:
        raise UserError(
            f"{setting}={factor:g}: torch's Adafactor bounds its rate by 1 / sqrt(step), which a raised rate of "
            f"{largest:g} exceeds within {run.total_steps} steps; set {setting}=1, or lower the rate."
        )


def _lacks_rate(optimizer: Optimizer) -> bool:
    return any(group["lr"] is None for group in optimizer.param_groups)


def check_optimizer(optimizer: Optimizer) -> None:
    """Reject optimizers that keep separate weights or take separate steps.

    Args:
        optimizer: The optimizer of a run.

    Raises:
        UserError: If it averages weights, steps in the backward pass, or concatenates all parameters into one vector.
    """
    name = type(optimizer).__name__
    reason = next((why for part, why in _APART.items() if part in name.lower()), None)
    if reason is not None:
        raise UserError(
            f"{name} {reason}, which does not work with a model that is cut while it trains; use AdamW, Adafactor or "
            "SGD."
        )


_APART = {
    "schedulefree": "trains other weights than those in the model between steps",
    "layerwisedummy": "steps in the backward pass",
    "lomo": "steps in the backward pass",
    "lbfgs": "keeps all parameters as one vector",
}
"""Part of an optimizer's class name -> reason for the incompatibility."""
