"""CoFi's distillation (Xia et al. 2022, section 3.2): the loss is the distance to a dense teacher; labels are unused.

The published constants are kept. Differences from the authors' code: padding is always excluded; a layer remains if its
MLP has a mask above 0, as in the paper (the code looks up layers in the wrong order); and a teacher layer without a
partner adds no loss. Predictions are compared where the model's own loss compares them with labels. Where OPT projects
the last layer's output to another width (`word_embed_proj_dim`), only the layers below are compared.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from neuroprune.errors import UserError
from neuroprune.methods.components.batch import Batch
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.hooks import State
from neuroprune.models.pretrained import from_pretrained
from neuroprune.models.quantizer import cut_to_record
from neuroprune.pruning.defaults import IGNORED
from neuroprune.pruning.plain_config import is_plain, to_plain
from neuroprune.pruning.residual_stream import kept_hidden

TEACHER_LAYERS = 4  # evenly spaced teacher layers per stack: 3, 6, 9, 12 of twelve
STACKS = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


def prediction_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of softened predictions, times the squared temperature, averaged over rows.

    Args:
        student: Logits, `[rows, classes]`.
        teacher: Logits of the teacher, of the same shape.
        temperature: Divisor of the logits, > 0.

    Returns:
        A scalar, 0 without rows.
    """
    found, wanted = (functional.log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    total = functional.kl_div(found, wanted, log_target=True, reduction="sum")
    return total / max(1, len(found)) * temperature**2


def label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `prediction_loss` for labels that are independent of each other, averaged over rows and labels.

    Args:
        student: Logits, `[rows, labels]`; the sigmoid of each is the probability of its label.
        teacher: Logits of the teacher, of the same shape.
        temperature: Divisor of the logits, > 0.

    Returns:
        A scalar.
    """
    # sigmoid(z) is the softmax of z and 0, so that each label is a row of two classes
    found, wanted = (functional.pad(logits.reshape(-1, 1), (0, 1)) for logits in (student, teacher))
    return prediction_loss(found, wanted, temperature)


def number_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference between numeric predictions; softened classes need at least two logits.

    Args:
        student: Outputs, `[rows, outputs]`.
        teacher: Logits of the teacher, of the same shape.

    Returns:
        A scalar.
    """
    return functional.mse_loss(student.float(), teacher.float())


def layer_distances(teacher: list[Tensor], student: list[Tensor], present: Tensor) -> Tensor:
    """Return the mean squared difference between each teacher layer and each student layer.

    Args:
        teacher: Outputs of the chosen layers, `[batch, length, width]` each.
        student: Outputs of all layers, `[batch, length, width]` each.
        present: Tokens that are not padding, bool `[batch, length]`.

    Returns:
        `[teacher layers, student layers]`.
    """
    rows = [[functional.mse_loss(s[present].float(), t[present].float()) for s in student] for t in teacher]
    return torch.stack([torch.stack(row) for row in rows])


def align(distances: Tensor, alive: Tensor) -> list[int | None]:
    """Return each teacher layer's partner: the nearest remaining student layer that preserves the order.

    Partners are chosen from the top, each below the partner of the teacher layer above it.

    Args:
        distances: `[teacher layers, student layers]`.
        alive: Remaining layers of the student, bool `[student layers]`.

    Returns:
        A student layer for each teacher layer; None where no layer remains.
    """
    below, partners = distances.shape[1], []
    for row in distances.detach().flip(0):
        choices = [layer for layer in range(below) if alive[layer]]
        partner = min(choices, key=lambda layer: float(row[layer]), default=None)
        below = 0 if partner is None else partner
        partners.append(partner)
    return partners[::-1]


def spread(layers: int, count: int = TEACHER_LAYERS) -> list[int]:
    """Return the teacher layers of a stack, from 0: the last one and others evenly spaced below it."""
    return sorted({-(-layers * (place + 1) // count) - 1 for place in range(count)})


def shifts_labels(model: Any) -> bool:
    """Return whether a model's own loss compares the logits of a token with the label of the next one.

    Args:
        model: A transformers model.

    Returns:
        True for causal language models. Decoders of encoder-decoders, such as `BartForCausalLM`, have the same
        `loss_type`, but do not use it: their forward pass has a loss of its own, which does not shift.
    """
    forwards = [inspect.unwrap(vars(kind)["forward"]) for kind in type(model).__mro__ if "forward" in vars(kind)]
    uses_type = any("loss_function" in forward.__code__.co_names for forward in forwards)
    loss = LOSS_MAPPING.get(str(getattr(model, "loss_type", None)), ForCausalLMLoss)  # the default of transformers
    return uses_type and loss is ForCausalLMLoss and not getattr(model.config, "is_encoder_decoder", False)


class Distillation:
    """Replace a model's training loss by the distance to a teacher until `detach`.

    The loss is `(1 - layers) x prediction_loss + layers x layer_loss`. The layer loss is the sum, over stacks and
    teacher layers, of the distance to the aligned student layer. A linear map, initialised as the identity, maps
    student layers to the teacher's width; hidden dimensions may have been removed from both models. If the model gets
    `num_items_in_batch`, the number of labels in all passes of a step, a pass counts by its fraction of them.

    Args:
        model: The student; it must compute its own loss.
        teacher: A dense model with the same vocabulary and classes; set to eval mode and not trained.
        layers: Weight of the layer loss, 0 to 1.
        temperature: Temperature of the softened predictions.
        alive: Function that marks the remaining MLPs of all stacks in order, bool `[MLPs]`.
    """

    def __init__(
        self, model: Any, teacher: nn.Module, layers: float, temperature: float, alive: Callable[[], Tensor]
    ) -> None:
        self.teacher, self._layers, self._temperature, self._alive = teacher.eval(), layers, temperature, alive
        parameter = next(model.parameters())
        teacher.to(parameter.device).requires_grad_(False)
        self._shifts_labels = shifts_labels(model)
        student_kept, teacher_kept = (_hidden_dimensions(each) for each in (model, teacher))
        identity = torch.eye(model.config.hidden_size, device=parameter.device)
        self.map = nn.Parameter(identity[teacher_kept][:, student_kept])
        self._optimizer = torch.optim.AdamW([self.map], weight_decay=0.0)
        self._handles: list[Any] = [
            model.register_forward_pre_hook(self._ask_for_layers, with_kwargs=True),
            model.register_forward_hook(self._replace_loss, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Remove the hooks from the model."""
        while self._handles:
            self._handles.pop().remove()

    def step(self, rate: float) -> None:
        """Update the linear map with the model's learning rate."""
        if self.map.grad is not None:
            self._optimizer.param_groups[0]["lr"] = rate
            self._optimizer.step()
            self._optimizer.zero_grad()

    def cut(self, kept: Tensor) -> None:
        """Restrict the input of the linear map to the student's remaining hidden dimensions, int64 `[kept]`."""
        moments = self._optimizer.state.pop(self.map, {})
        self.map = nn.Parameter(self.map.detach()[:, kept.to(self.map.device)])
        self._optimizer = torch.optim.AdamW([self.map], weight_decay=0.0)
        if moments:
            cut = {key: value if key == "step" else value[:, kept.to(value.device)] for key, value in moments.items()}
            self._optimizer.state[self.map] = cut

    def state_dict(self) -> State:
        """Return the linear map, with its moments if it has taken a step."""
        moments = self._optimizer.state.get(self.map, {})
        return {"map": self.map.detach(), "stepped": bool(moments)} | nest("moments", moments)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.map = nn.Parameter(state["map"].to(self.map))
        self._optimizer = torch.optim.AdamW([self.map], weight_decay=0.0)
        if state["stepped"]:
            moments = unnest("moments", state)
            self._optimizer.state[self.map] = {k: v if k == "step" else v.to(self.map) for k, v in moments.items()}

    def _ask_for_layers(self, model: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        asked = {"output_hidden_states": True, "return_dict": True} if self._layers else {"return_dict": True}
        return (args, inputs | asked) if model.training else None

    def _replace_loss(self, model: nn.Module, args: Any, inputs: dict[str, Any], outputs: Any) -> Any:
        if not model.training:
            return None
        if outputs.get("loss") is None:
            raise UserError("distillation replaces the model's own loss, but the model computes none; pass labels.")
        if inputs.get("labels") is None or outputs.get("logits") is None:
            raise UserError(
                f"distillation compares logits where there are labels, but {type(model).__name__} is trained without "
                "labels or gives no logits by these names (as in question answering); leave teacher out."
            )
        with torch.no_grad():
            wanted = self.teacher(*args, **inputs)
        labels = self._aligned_labels(inputs)
        loss = (1 - self._layers) * self._logits_loss(model.config, labels, outputs["logits"], wanted["logits"])
        if self._layers:
            batch = Batch.from_call(type(model).forward, model, args, inputs)
            loss = loss + self._layers * self._layer_loss(batch, outputs, wanted)
        if (items := inputs.get("num_items_in_batch")) is not None:  # the passes of a step are added, not averaged
            loss = loss * ((labels != IGNORED).sum() / items)
        outputs["loss"] = loss
        return outputs

    def _aligned_labels(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the labels, each at the position of the logits that predict it."""
        labels: Tensor = inputs["labels"]
        if not self._shifts_labels:
            return labels
        shifted: Tensor | None = inputs.get("shift_labels")
        return functional.pad(labels[..., 1:], (0, 1), value=IGNORED) if shifted is None else shifted

    def _logits_loss(self, config: Any, labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare predictions as the model's own loss compares them with labels."""
        kind, present = getattr(config, "problem_type", None), _present(labels, student)
        pair = student[present], teacher[present]
        if kind == "multi_label_classification" and labels.shape == student.shape:
            return label_loss(*pair, self._temperature)
        numbers = kind == "regression" or student.shape[-1] == 1
        return number_loss(*pair) if numbers else prediction_loss(*pair, self._temperature)

    def _layer_loss(self, batch: Batch, outputs: Any, wanted: Any) -> Tensor:
        """Sum the layer loss over stacks; encoder MLPs come before decoder MLPs, as in `find_blocks`."""
        alive, first, total = self._alive(), 0, self.map.new_zeros(())
        for name in STACKS:
            student, teacher = outputs.get(name), wanted.get(name)
            if student is None:
                continue
            goal, width = self.map.shape
            layers = [functional.linear(x, self.map.to(x.dtype)) for x in student[1:] if x.shape[-1] == width]
            comparable = [x for x in teacher[1:] if x.shape[-1] == goal]
            if not layers or not comparable:
                raise UserError(
                    f"layer_share: no layer's output among the {name} has the width of the residual stream "
                    f"({len(student) - 1} of the student, {len(teacher) - 1} of the teacher); leave layer_share out."
                )
            chosen = [comparable[layer] for layer in spread(len(comparable))]
            distances = layer_distances(chosen, layers, _tokens(batch, name, student[-1]))
            partners = align(distances, alive[first : first + len(layers)])
            total = total + sum(distances[i, j] for i, j in enumerate(partners) if j is not None)
            first += len(student) - 1
        return total


def _hidden_dimensions(model: Any) -> list[int]:
    """Return the positions of the layers' hidden dimensions in the dense model."""
    kept = kept_hidden(model)
    return list(range(model.config.hidden_size)) if kept is None else kept[0]


def _present(labels: Tensor, logits: Tensor) -> Tensor:
    """Mark the rows of logits that have a label, bool, with the logits' shape without the last axis."""
    same = labels.shape == logits.shape[:-1]
    return labels != IGNORED if same else torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)


def _tokens(batch: Batch, stack: str, states: Tensor) -> Tensor:
    """Mark the tokens of a stack that are not padding, bool `[batch, length]`."""
    mask = batch.decoder_mask if stack.startswith("decoder") else batch.mask
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    if mask.numel() != states[..., 0].numel():
        raise UserError(
            f"the attention mask has {mask.numel()} tokens, but the layers read {states[..., 0].numel()}, so padding "
            "can't be excluded from the distillation; pass a mask for the tokens that the layers read."
        )
    return mask.reshape(states.shape[:2])


def load_teacher(folder: str, model: Any) -> nn.Module:
    """Load the teacher of a distillation.

    Args:
        folder: Folder of the saved teacher.
        model: The student.

    Returns:
        The teacher.

    Raises:
        UserError: If it can't be loaded, or differs from the student in type, width, labels or vocabulary.
    """
    teacher = from_pretrained(folder)
    for what in ("model_type", "hidden_size", "num_labels", "vocab_size"):
        found, wanted = (getattr(each.config, what, None) for each in (teacher, model))
        if found != wanted:
            raise UserError(f"teacher: {what} of the model in {folder} is {found}, but the student's is {wanted}")
    return teacher


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name, without duplicates."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copy_of(model: Any, weights: Mapping[str, Tensor], record: Mapping[str, Any] | None) -> nn.Module:
    """Return an earlier state of a model, without hooks.

    Args:
        model: A transformers model.
        weights: Result of `weights_of` in the earlier state.
        record: What was cut then, see `kept_units.read_record`; None: nothing.

    Returns:
        A new model.
    """
    with torch.random.fork_rng():  # initialisation must not consume the run's random numbers
        config = copy.deepcopy(model.config)
        config.__dict__.pop("quantization_config", None)  # the copy is dense until it is cut
        made = type(model)(config)
        if record is not None and not is_plain(made):
            cut_to_record(made, record)
            if "config" in record:
                to_plain(made)
    made.load_state_dict(dict(weights), strict=False)  # shared weights are listed only once
    copied: nn.Module = made
    return copied
