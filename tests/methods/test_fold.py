"""The least-squares fold: the paper's merge for equal units, the exact solution otherwise."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers.models import each_model, logits, make_batch, make_model
from neuroprune.methods.components.fold import fold, fold_means, fold_solution
from neuroprune.methods.components.second_moments import SecondMoments
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Projection, find_blocks

KEPT, GONE = torch.tensor([0, 2, 3]), torch.tensor([1, 4])
MARK = torch.tensor([False, True, False, False, True])


def tokens(count: int = 50, channels: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, channels, generator=generator) @ torch.randn(channels, channels, generator=generator)
    return mixed + 0.5


def moments_of(x: Tensor, weights: Tensor | None = None) -> Tensor:
    moments = SecondMoments(x.shape[1])
    moments.add(x, weights)
    return moments.matrix()


def test_of_two_equal_channels_the_one_that_stays_gets_both_weights():
    x = tokens(channels=4)
    x = torch.cat([x, x[:, :1]], dim=1)  # channel 4 is channel 0
    weight = torch.randn(3, 5)
    kept, gone = torch.arange(4), torch.tensor([4])
    change, shift = fold_solution(moments_of(x), weight, kept, gone, ridge=1e-9, constant=True)
    torch.testing.assert_close(change[:, 0].float(), weight[:, 4], rtol=1e-3, atol=1e-3)
    assert change[:, 1:].abs().max() < 1e-3 and shift.abs().max() < 1e-3


def test_a_constant_channel_goes_into_the_bias():
    x = tokens()
    x[:, 4] = 2.0
    weight = torch.randn(3, 5)
    change, shift = fold_solution(moments_of(x), weight, torch.arange(4), torch.tensor([4]), 1e-9, constant=True)
    torch.testing.assert_close(shift.float(), 2 * weight[:, 4], rtol=1e-3, atol=1e-3)
    assert change.abs().max() < 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_the_means_of_removed_channels_go_into_the_bias(bias):
    layer = nn.Linear(3, 2, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        if bias:
            layer.bias.copy_(torch.tensor([0.5, -0.5]))
    weight = layer.weight.clone()
    fold_means(Projection(layer), torch.tensor([10.0, 2.0, -1.0]), torch.tensor([False, True, True]))
    assert torch.equal(layer.weight, weight)
    assert not bias or layer.bias.tolist() == [1.5, 3.5]  # + 2 * 2 - 3, + 5 * 2 - 6


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_fold_is_the_weighted_least_squares_solution(constant, weighted):
    x, weight = tokens(), torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    w = torch.linspace(0.1, 3, len(x)) if weighted else torch.ones(len(x))
    inputs = torch.cat([x[:, KEPT], torch.ones(len(x), 1)], dim=1) if constant else x[:, KEPT]
    lost = x[:, GONE] @ weight[:, GONE].T
    root = w.sqrt()[:, None].double()
    expected = torch.linalg.lstsq(root * inputs, root * lost).solution.T.float()
    moments = moments_of(x, w if weighted else None)
    change, shift = fold_solution(moments, weight, KEPT, GONE, ridge=1e-10, constant=constant)
    torch.testing.assert_close(change.float(), expected[:, :3], rtol=1e-3, atol=1e-3)
    if constant:
        torch.testing.assert_close(shift.float(), expected[:, 3], rtol=1e-3, atol=1e-3)
    else:
        assert shift is None


def test_the_ridge_by_hand():
    # one channel stays, one goes; H = [[2, 3, 0], [3, 4, 0], [0, 0, 0]], mean of the channels' diagonal 3, ridge 2
    moments = torch.tensor([[2.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    change, _ = fold_solution(moments, torch.tensor([[9.0, 8.0]]), torch.tensor([0]), torch.tensor([1]), 2.0, False)
    assert change.item() == pytest.approx(3 * 8 / (2 + 2 * 3))


def test_a_ridge_below_rounding_errors_is_raised():
    moments = torch.ones(3, 3)
    moments[0, 0] = moments[1, 1] = 1 - 1e-3  # not a valid matrix of second moments
    change, _ = fold_solution(moments, torch.ones(1, 2), torch.tensor([0]), torch.tensor([1]), 1e-12, constant=True)
    assert change.isfinite().all() and change.abs().max() < 1000


def test_a_ridge_is_raised_tenfold_until_it_is_large_enough():
    moments = torch.ones(3, 3)
    moments[0, 0] = moments[1, 1] = 1 - 1e-3  # the smallest eigenvalue of the kept part is -5e-4
    one = torch.tensor([1])
    found, expected = (
        fold_solution(moments, torch.ones(1, 2), one - 1, one, ridge, constant=True)[0] for ridge in (1e-5, 1e-3)
    )
    torch.testing.assert_close(found, expected)


def test_solving_leaves_the_moments_and_the_weights_as_they_are():
    moments, weight = moments_of(tokens()), torch.randn(3, 5)
    before = moments.clone(), weight.clone()
    fold_solution(moments, weight, KEPT, GONE, ridge=0.1, constant=True)
    assert torch.equal(moments, before[0]) and torch.equal(weight, before[1])


def test_dead_channels_do_no_harm():
    change, shift = fold_solution(torch.zeros(6, 6), torch.randn(3, 5), KEPT, GONE, 0.01, constant=True)
    assert not change.any() and not shift.any()


@pytest.mark.parametrize("kind", ["linear", "without bias", "transposed"])
def test_folding_in_place_reaches_weight_and_bias(kind):
    x, module = tokens(), Conv1D(3, 5) if kind == "transposed" else nn.Linear(5, 3, bias=kind != "without bias")
    projection = Projection(module)
    before, bias = projection.weight.detach().clone(), projection.bias
    start = None if bias is None else bias.detach().clone()
    change, shift = fold_solution(moments_of(x), before, KEPT, GONE, 0.01, constant=bias is not None)
    fold(projection, moments_of(x), MARK, ridge=0.01)
    torch.testing.assert_close(projection.weight[:, KEPT], before[:, KEPT] + change.float())
    torch.testing.assert_close(projection.weight[:, GONE], before[:, GONE])
    if bias is not None:
        torch.testing.assert_close(projection.bias, start + shift.float())


def test_nothing_to_remove_changes_nothing():
    module = nn.Linear(5, 3)
    before = module.weight.detach().clone()
    fold(Projection(module), torch.zeros(6, 6), torch.zeros(5, dtype=torch.bool), ridge=0.01)
    assert torch.equal(module.weight, before)


@each_model
def test_with_two_equal_heads_the_fold_is_the_papers_merge(name):
    """Both preserve the model's output; the columns of the remaining head are the sum."""
    model, batch = make_model(name), make_batch(name)
    attention = next(a for a in find_blocks(model).attentions if a.cross or model.config.model_type != "t5")
    width = attention.head_dim * attention.groups
    with torch.no_grad():
        for path, bias in model.named_parameters():
            if path.endswith("relative_attention_bias.weight"):  # equal heads have equal position biases
                bias.copy_(bias[:, :1].expand_as(bias))
        for projection in (attention.q, attention.k, attention.v):
            size = width if projection is attention.q else attention.head_dim
            for tensor in (projection.weight, projection.bias):
                if tensor is not None:
                    tensor[:size] = tensor[2 * size : 3 * size]
    seen = []
    handle = attention.o.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    expected = logits(model, batch)
    handle.remove()
    before = attention.o.weight.detach().clone()
    gone = torch.zeros(before.shape[1], dtype=torch.bool)
    gone[:width] = True
    fold(attention.o, moments_of(seen[0].float()), gone, ridge=1e-7)
    with torch.no_grad():
        attention.o.weight[:, gone] = 0
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-2, atol=1e-3)
    merged = make_merged(before, width)
    # the two solutions may differ only in directions that the input never takes
    outputs = [seen[0].float() @ weight.detach().T for weight in (attention.o.weight, merged)]
    shift = attention.o.bias.detach() - make_bias(name, attention.index) if attention.o.bias is not None else 0
    torch.testing.assert_close(outputs[0] + shift, outputs[1], rtol=1e-2, atol=1e-3)


def make_merged(weight: Tensor, width: int) -> Tensor:
    """The paper's merge of head 0 into head 2."""
    merged = weight.clone()
    merged[:, 2 * width : 3 * width] += merged[:, :width]
    merged[:, :width] = 0
    return merged


def make_bias(name: str, index: int) -> Tensor:
    return find_blocks(make_model(name)).attentions[index].o.bias.detach()


def test_merging_is_what_the_heads_module_does():
    attention = find_blocks(make_model("bert")).attentions[0]
    expected = make_merged(attention.o.weight.detach().clone(), 4)
    heads.merge_output(attention, torch.tensor([2, 1, 2, 3]))
    torch.testing.assert_close(attention.o.weight[:, 4:], expected[:, 4:])
