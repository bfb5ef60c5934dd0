"""Calibration statistics, compared with brute force: one autograd pass per sample with a gate on every unit."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from helpers.models import NAMES, each_model, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.components import calibration
from neuroprune.methods.components.calibration import Calibration
from neuroprune.methods.components.second_moments import SecondMoments
from neuroprune.pruning.blocks import find_blocks


def sample_losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """A separate loss for each sample, over the tokens that are not padding."""
    logits = model(**batch).logits
    factors = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    if logits.shape[:2] == batch["attention_mask"].shape:
        factors = factors * batch["attention_mask"][..., None]
    return (logits.float() * factors).flatten(1).sum(dim=1)


def projections(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """The output projections and the channels of one unit."""
    blocks = find_blocks(model)
    heads = [(a.o.module, a.head_dim * a.groups) for a in blocks.attentions]
    return heads + [(m.out.module, 1) for m in blocks.mlps]


def multiply(gate: Tensor, channels: int, mean: Tensor, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (mean + (inputs[0] - mean) * gate.repeat_interleave(channels),)


def gated_fisher(model: nn.Module, batch: dict[str, Tensor], means: list[Tensor] | None = None) -> list[Tensor]:
    """Mean over samples of the squared derivative of the sample's loss by a gate on each unit, or on what it does
    beyond a mean."""
    gates, handles = [], []
    for i, (module, channels) in enumerate(projections(model)):
        width = module.weight.shape[0] if hasattr(module, "nf") else module.weight.shape[1]
        gate = torch.ones(width // channels, requires_grad=True)
        mean = torch.zeros(width) if means is None else means[i]
        handles.append(module.register_forward_pre_hook(partial(multiply, gate, channels, mean)))
        gates.append(gate)
    losses = sample_losses(model, batch)
    rows = [torch.autograd.grad(loss, gates, retain_graph=True) for loss in losses]
    for handle in handles:
        handle.remove()
    return [torch.stack(row).square().mean(dim=0) for row in zip(*rows, strict=True)]


def statistics(found: Calibration) -> list[calibration.UnitStatistics]:
    return list(found.statistics.values())


def calibrate(model: nn.Module, *batches: dict[str, Tensor], **kwargs: bool) -> Calibration:
    found = Calibration(model, find_blocks(model), **kwargs)
    for batch in batches:
        sample_losses(model, batch).mean().backward()
    found.detach()
    return found


@each_model
def test_connectivity_is_the_fisher_information_of_a_gate(name):
    model, batch = make_model(name), make_batch(name)
    found = statistics(calibrate(model, batch, centred=False))
    for got, expected in zip(found, gated_fisher(model, batch), strict=True):
        assert got.samples == 3
        torch.testing.assert_close(got.connectivity, expected, rtol=1e-3, atol=1e-6)


@each_model
def test_centred_the_gate_is_on_what_a_unit_does_beyond_the_mean_that_a_bias_takes_over(name):
    model, batch = make_model(name), make_batch(name)
    found = statistics(calibrate(model, batch))
    means = [got.moments.matrix()[-1, :-1] / got.moments.matrix()[-1, -1] for got in found]
    means = [mean * (got.projection.bias is not None) for got, mean in zip(found, means, strict=True)]
    for got, expected in zip(found, gated_fisher(model, batch, means), strict=True):
        torch.testing.assert_close(got.connectivity, expected, rtol=1e-2, atol=1e-5)


def test_a_unit_that_does_always_the_same_is_connected_to_nothing_once_its_mean_is_left_out():
    model = make_model("bert")
    mlp = find_blocks(model).mlps[0]
    for projection in mlp.ins:
        with torch.no_grad():
            projection.weight[3] = 0
            projection.bias[3] = 2.0
    whole, centred = (
        statistics(calibrate(model, make_batch("bert"), centred=c))[2].connectivity for c in (False, True)
    )
    assert centred[3] < 1e-5 * whole[3]


def test_without_a_fold_nothing_takes_a_mean_over():
    model, batch = make_model("bert"), make_batch("bert")
    found = statistics(calibrate(model, batch, moments=None))
    for got, expected in zip(found, gated_fisher(model, batch), strict=True):
        torch.testing.assert_close(got.connectivity, expected, rtol=1e-3, atol=1e-6)


@each_model
def test_second_moments_are_weighted_and_leave_padding_out(name):
    model, batch = make_model(name), make_batch(name)
    xs, outputs, called = [], [], []
    order = {module: i for i, (module, _) in enumerate(projections(model))}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        xs.append(inputs[0].detach())
        outputs.append(output)
        called.append(order[module])

    handles = [module.register_forward_hook(keep) for module, _ in projections(model)]
    found = statistics(calibrate(model, batch))
    for handle in handles:
        handle.remove()
    for i, x, output in zip(called, xs, outputs, strict=True):
        samples = len(batch["input_ids"])
        x, gradient = x.reshape(samples, -1, x.shape[-1]), output.grad.reshape(samples, -1, output.shape[-1])
        mask = batch["attention_mask"].bool()
        real = mask if mask.shape == x.shape[:2] else torch.ones(x.shape[:2], dtype=torch.bool)
        expected = torch.zeros(x.shape[-1] + 1, x.shape[-1] + 1)
        norms = gradient.square().sum(dim=-1)[real]
        for token, norm in zip(x[real], norms, strict=True):
            extended = torch.cat([token, torch.ones(1)])
            expected += (norm / norms.mean() + 0.01) * torch.outer(extended, extended)
        torch.testing.assert_close(found[i].moments.matrix(), expected, rtol=1e-3, atol=1e-4)


def test_batches_add_up_whatever_their_size():
    model, first, second = make_model("bert"), make_batch("bert", rows=4), make_batch("bert", rows=2, seed=1)
    both = statistics(calibrate(model, first, second))
    apart = [statistics(calibrate(model, batch)) for batch in (first, second)]
    for got, a, b in zip(both, *apart, strict=True):
        assert got.samples == 6
        torch.testing.assert_close(got.gates, a.gates + b.gates)
        torch.testing.assert_close(got.moments.matrix(), a.moments.matrix() + b.moments.matrix())


def test_uneven_parts_of_a_step_count_like_the_whole_step():
    model, batch = make_model("bert"), make_batch("bert", rows=4)

    def gates(*parts):
        found = Calibration(model, find_blocks(model), loss_rows=lambda: 4)
        for rows in parts:
            logits = model(**{name: values[rows] for name, values in batch.items()}).logits
            (logits.square().sum() / 4).backward()
        found.detach()
        return [(part.samples, part.gates) for part in statistics(found)]

    for (samples, got), (_, whole) in zip(gates(slice(3), slice(3, 4)), gates(slice(4)), strict=True):
        assert samples == 4
        torch.testing.assert_close(got, whole)


def test_padding_does_not_matter():
    model, batch = make_model("bert"), make_batch("bert")
    longer = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in batch.items()}
    for a, b in zip(statistics(calibrate(model, batch)), statistics(calibrate(model, longer)), strict=True):
        torch.testing.assert_close(a.connectivity, b.connectivity, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(a.moments.matrix(), b.moments.matrix(), rtol=1e-3, atol=1e-4)


def test_without_a_mask_every_token_counts():
    model, ids = make_model("bert"), make_batch("bert")["input_ids"]
    found = Calibration(model, find_blocks(model), weigh_tokens=False)
    model(input_ids=ids).logits.sum().backward()
    assert all(got.moments.matrix()[-1, -1] == ids.numel() for got in statistics(found))


def test_a_decoder_without_mask_leaves_ignored_labels_out():
    model, batch = make_model("t5"), make_batch("t5")
    del batch["decoder_input_ids"]
    labels = torch.tensor([[5, 6, 7, -100], [5, 6, -100, -100], [5, -100, -100, -100]])
    found = Calibration(model, find_blocks(model), weigh_tokens=False)
    model(**batch, labels=labels).loss.backward()
    blocks = find_blocks(model)
    for block, got in zip([*blocks.attentions, *blocks.mlps], statistics(found), strict=True):
        expected = 6 if "decoder" in block.name.split(".") else int(batch["attention_mask"].sum())
        assert got.moments.matrix()[-1, -1] == expected


def test_moments_can_be_left_out():
    assert all(got.moments is None for got in statistics(calibrate(make_model("bert"), make_batch(), moments=None)))


def test_passes_without_gradient_count_for_nothing():
    model, batch = make_model("bert"), make_batch("bert")
    found = Calibration(model, find_blocks(model))
    with torch.no_grad():
        model(**batch)
    model(**batch)  # a forward pass that nobody differentiates
    assert all(got.samples == 0 and not got.moments.matrix().any() for got in statistics(found))


def test_a_second_backward_pass_through_one_graph_is_rejected():
    model = make_model("bert")
    found = Calibration(model, find_blocks(model))
    loss = sample_losses(model, make_batch("bert")).mean()
    loss.backward(retain_graph=True)
    with pytest.raises(UserError, match="add the losses up and call backward\\(\\) once"):
        loss.backward()
    found.detach()


def test_statistics_are_restored_and_those_of_another_version_rejected():
    model, batch = make_model("bert"), make_batch("bert")
    found, other = calibrate(model, batch), Calibration(model, find_blocks(model))
    state = found.state_dict()
    other.load_state(state)
    for got, expected in zip(statistics(other), statistics(found), strict=True):
        assert got.samples == expected.samples and torch.equal(got.connectivity, expected.connectivity)
        assert torch.equal(got.moments.matrix(), expected.moments.matrix())
    with pytest.raises(UserError, match="of another version of neuroprune"):
        other.load_state({f"0.{name}": state["0.sums.0"] for name in ("gates", "moments")})
    other.detach()


def test_recomputed_activations_count_once():
    model, batch = make_model("bert").train(), make_batch("bert")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = statistics(calibrate(model, batch))
    for reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        for got, expected in zip(statistics(calibrate(model, batch)), plain, strict=True):
            assert got.samples == expected.samples
            torch.testing.assert_close(got.gates, expected.gates)
            torch.testing.assert_close(got.moments.matrix(), expected.moments.matrix())


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_float32_under_autocast(name):
    model, batch = make_model(name), make_batch(name)
    exact = statistics(calibrate(model, batch))
    found = Calibration(model, find_blocks(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sample_losses(model, batch).mean()
        loss.backward()
    for got, expected in zip(statistics(found), exact, strict=True):
        moments, wanted = got.moments.matrix(), expected.moments.matrix()
        assert got.gates.dtype == moments.dtype == torch.float32
        scale = wanted.diagonal().mean()
        assert (moments - wanted).abs().max() < 0.5 * scale
        assert torch.linalg.eigvalsh(moments).min() > -1e-4 * scale


def test_a_pass_that_overflowed_adds_nothing():
    found = calibration.UnitStatistics(None, 1, torch.zeros(2, 2, 2), 0, SecondMoments(2))
    x, gradient = torch.ones(1, 2, 2), torch.tensor([[[1.0, torch.inf], [2.0, torch.nan]]])
    found.add(x, gradient, torch.tensor([[[torch.inf], [1.0]]]), None)
    assert found.gates.tolist() == [[[9.0, 9.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert found.moments.matrix().isfinite().all()


def test_detaching_leaves_no_hook():
    model = make_model("bert")
    found = Calibration(model, find_blocks(model))
    found.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    sample_losses(model, make_batch()).mean().backward()
    assert all(got.samples == 0 for got in statistics(found))
