"""Eq. 1 and Eq. 2 against the literal reference, autograd, and hand-computed numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers import reference
from helpers.models import each_model, make_model
from neuroprune.pruning import penalties
from neuroprune.pruning.blocks import Projection, find_blocks

READINGS = pytest.mark.parametrize("reading", ["inverse", "missing", "none"])


def linear(rows: list[list[float]]) -> Projection:
    module = nn.Linear(len(rows[0]), len(rows), bias=False)
    module.weight = nn.Parameter(torch.tensor(rows))
    return Projection(module)


def hand_mlp() -> SimpleNamespace:
    """L_in has rows of degree 1 and 1/2, L_out rows of degree 1/2 and 1."""
    return SimpleNamespace(ins=(linear([[1.0, -3.0], [0.0, 2.0]]),), out=linear([[4.0, 0.0], [-1.0, 1.0]]), width=2)


def hand_attention(cross: bool = False) -> SimpleNamespace:
    """Input dimension 0 has l1 norm 1 + 2 + 1 = 4, dimension 1 has 0 + 9 + 0 = 9."""
    q, k, v = linear([[1.0, 0.0]]), linear([[-2.0, 9.0]]), linear([[1.0, 0.0]])
    return SimpleNamespace(q=q, k=k, v=v, cross=cross)


def sparse_model(name: str) -> nn.Module:
    """A model with many absent entries, some of them zero, including a whole input dimension."""
    model = make_model(name)
    with torch.no_grad():
        for projection in all_projections(model):
            weight = projection.weight
            weight.masked_fill_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4, 0)
            weight[0, 1] = 3e-5
            weight[:, 3] = 0
    return model


def all_projections(model: nn.Module) -> list[Projection]:
    blocks = find_blocks(model)
    attention = [p for a in blocks.attentions for p in (a.q, a.k, a.v)]
    return attention + [p for m in blocks.mlps for p in (*m.ins, m.out)]


def test_eq1_by_hand():
    assert penalties.mlp_penalty(hand_mlp()).item() == 4 + 2 * 2 + 2 * 4 + 2
    assert penalties.mlp_penalty(hand_mlp(), degree_weight="missing").item() == 0 + 0.5 * 2 + 0.5 * 4 + 0


def test_eq2_by_hand():
    assert penalties.attention_penalty(hand_attention()).item() == pytest.approx(2 + 3)
    # cross-attention: Q alone has norms 1 and 0, K and V have 3 and 9
    assert penalties.attention_penalty(hand_attention(cross=True)).item() == pytest.approx(1 + 3**0.5 + 3)


def test_gradients_by_hand():
    mlp, attention = hand_mlp(), hand_attention()
    for projection in (*mlp.ins, mlp.out, attention.q, attention.k, attention.v):
        projection.module.weight.grad = torch.zeros_like(projection.module.weight)
    penalties.add_mlp_gradient(mlp, 0.5)
    assert mlp.ins[0].grad.tolist() == [[0.5, -0.5], [0.0, 1.0]]
    assert mlp.out.grad.tolist() == [[1.0, 0.0], [-0.5, 0.5]]
    penalties.add_attention_gradient(attention, 12.0)  # 12 / (2 sqrt 4) = 3, 12 / (2 sqrt 9) = 2
    assert attention.q.grad.tolist() == [[3.0, 0.0]]
    assert attention.k.grad.flatten().tolist() == pytest.approx([-3.0, 2.0])


@each_model
@READINGS
def test_eq1_agrees_with_the_reference(name, reading):
    for mlp in find_blocks(sparse_model(name)).mlps:
        matrices = [projection.weight.tolist() for projection in (*mlp.ins, mlp.out)]
        expected = reference.eq1(matrices, 1e-4, reading)
        assert penalties.mlp_penalty(mlp, 1e-4, reading).item() == pytest.approx(expected, rel=1e-5)


@each_model
def test_eq2_agrees_with_the_reference(name):
    for attention in find_blocks(sparse_model(name)).attentions:
        q, k, v = (projection.weight.T.tolist() for projection in (attention.q, attention.k, attention.v))
        groups = [q, reference.side_by_side(k, v)] if attention.cross else [reference.side_by_side(q, k, v)]
        expected = sum(map(reference.eq2, groups))
        assert penalties.attention_penalty(attention).item() == pytest.approx(expected, rel=1e-5)


@each_model
@READINGS
def test_closed_form_gradients_agree_with_autograd(name, reading):
    model, twin = sparse_model(name), sparse_model(name)
    blocks = find_blocks(model)
    loss = 0.3 * sum(penalties.mlp_penalty(m, 1e-4, reading) for m in blocks.mlps)
    (loss + 0.7 * sum(map(penalties.attention_penalty, blocks.attentions))).backward()
    for parameter in twin.parameters():
        parameter.grad = torch.ones_like(parameter)
    for mlp in find_blocks(twin).mlps:
        penalties.add_mlp_gradient(mlp, 0.3, 1e-4, reading)
    for attention in find_blocks(twin).attentions:
        penalties.add_attention_gradient(attention, 0.7)
    for first, second in zip(all_projections(model), all_projections(twin), strict=True):
        torch.testing.assert_close(second.grad, first.grad + 1, rtol=1e-5, atol=1e-6)
    touched = {p.module.weight for p in all_projections(twin)}
    assert all((p.grad == 1).all() for p in twin.parameters() if p not in touched)


def test_a_group_that_is_zero_gets_no_gradient_and_is_not_nan():
    attention = SimpleNamespace(q=linear([[0.0, 1.0]]), k=linear([[0.0, 1.0]]), v=linear([[0.0, 2.0]]), cross=False)
    penalties.attention_penalty(attention).backward()
    assert attention.q.grad.tolist() == [[0.0, 0.25]]
    penalties.add_attention_gradient(attention, 1.0)
    assert attention.q.grad.tolist() == [[0.0, 0.5]]


def test_matrices_without_gradient_are_left_alone():
    mlp, attention = hand_mlp(), hand_attention()
    penalties.add_mlp_gradient(mlp, 1.0)
    penalties.add_attention_gradient(attention, 1.0)
    penalties.add_l1_gradient(mlp.out, 1.0)
    assert mlp.out.grad is None and attention.q.grad is None


def test_soft_threshold_is_the_proximal_step_of_l1():
    weight = torch.tensor([[3.0, -0.5, 0.0, -2.0]])
    penalties.soft_threshold(weight, 0.75)
    assert weight.tolist() == [[2.25, 0.0, 0.0, -1.25]]


@READINGS
def test_shrinking_an_mlp_minimises_penalty_plus_distance(reading):
    """The proximal step of h, argmin_x h(x) + |x - w|^2 / 2, is found by a grid search for each entry."""
    mlp, strength = hand_mlp(), 0.4
    before = mlp.out.weight.detach().clone()
    weights = [reference.degree_weight(row, 1e-4, reading) for row in before.tolist()]
    penalties.shrink_mlp(mlp, strength, degree_weight=reading)
    grid = torch.linspace(-5, 5, 10001, dtype=torch.float64)
    for i, row in enumerate(before.tolist()):
        for j, entry in enumerate(row):
            cost = strength * weights[i] * grid.abs() + (grid - entry) ** 2 / 2
            assert mlp.out.weight[i, j].item() == pytest.approx(grid[cost.argmin()].item(), abs=1e-3)


def test_removed_neurons_count_as_absent_in_the_contracting_matrix():
    mlp = hand_mlp()
    penalties.shrink_mlp(mlp, 0.1, dense_width=4)
    # L_in keeps its factors 1 and 2; L_out's rows have 1 and 2 of 4 connections, so factors 4 and 2
    torch.testing.assert_close(mlp.ins[0].weight.detach(), torch.tensor([[0.9, -2.9], [0.0, 1.8]]))
    torch.testing.assert_close(mlp.out.weight.detach(), torch.tensor([[3.6, 0.0], [-0.8, 0.8]]))


def test_removed_neurons_count_as_absent_in_the_gradient_of_eq1():
    mlp = hand_mlp()
    for projection in (*mlp.ins, mlp.out):
        projection.module.weight.grad = torch.zeros_like(projection.module.weight)
    penalties.add_mlp_gradient(mlp, 0.5, dense_width=4)
    # L_in keeps its factors 1 and 2; L_out's rows have 1 and 2 of 4 connections, so factors 4 and 2
    assert mlp.ins[0].grad.tolist() == [[0.5, -0.5], [0.0, 1.0]]
    assert mlp.out.grad.tolist() == [[2.0, 0.0], [-1.0, 1.0]]


def test_shrinking_an_attention_by_hand():
    attention = hand_attention()
    penalties.shrink_attention(attention, 2.0)  # thresholds 2 / (2 sqrt 4) = .5 and 2 / (2 sqrt 9) = 1/3
    torch.testing.assert_close(attention.k.weight.detach(), torch.tensor([[-1.5, 9 - 1 / 3]]))
    torch.testing.assert_close(attention.q.weight.detach(), torch.tensor([[0.5, 0.0]]))


@each_model
def test_shrinking_an_attention_never_raises_penalty_plus_distance(name):
    for attention in find_blocks(sparse_model(name)).attentions:
        projections = (attention.q, attention.k, attention.v)
        before = [p.weight.detach().clone() for p in projections]
        penalty = penalties.attention_penalty(attention).item()
        penalties.shrink_attention(attention, 0.5)
        moved = sum((p.weight - w).square().sum().item() for p, w in zip(projections, before, strict=True))
        assert 0.5 * penalties.attention_penalty(attention).item() + moved / 2 < 0.5 * penalty


def test_a_small_group_vanishes_at_once():
    attention = SimpleNamespace(q=linear([[1e-3, 1.0]]), k=linear([[0.0, 1.0]]), v=linear([[0.0, 2.0]]), cross=False)
    penalties.shrink_attention(attention, 0.1)
    assert attention.q.weight[0, 0] == 0 and attention.q.weight[0, 1] > 0.9
