"""NeuroPrune(heads=...): exact number of heads, alone or with a sparsity; monotonicity; the paper's threshold."""

import json

import pytest
import torch

from helpers.loops import labelled_batch, make_trainer, train_bare
from helpers.models import NAMES, ROWS, WIDTH, make_model
from neuroprune.errors import UserError
from neuroprune.methods.components.head_count import choose_heads_first
from neuroprune.methods.components.unit_selection import UnitGroup
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity, prunable_weights
from neuroprune.pruning.surgery import kept_units


def heads_left(model):
    return sum(map(len, kept_units(model).heads))


@pytest.mark.parametrize("name", NAMES)
def test_exactly_so_many_heads_are_left(name):
    row = ROWS[name]
    dense = row.attentions * row.heads
    for count in (row.attentions * row.groups, (dense // 2 + 2) // row.groups * row.groups, dense):
        model = make_model(name)
        train_bare(NeuroPrune(heads=count), model, name, steps=6)
        assert heads_left(model) == count
        assert all(mlp.width == WIDTH for mlp in find_blocks(model).mlps)
    model(**labelled_batch(name, seed=99)).loss.backward()


@pytest.mark.parametrize("name", ["bert", "t5", "opt", "llama"])
@pytest.mark.parametrize(("share", "sparsity"), [(0.5, 0.5), (1.0, 0.3), (0.5, 0.6)])
def test_heads_and_sparsity_in_one_run(name, share, sparsity):
    row = ROWS[name]
    model, count = make_model(name), int(row.attentions * row.heads * share)
    train_bare(NeuroPrune(heads=count, sparsity=sparsity), model, name, steps=6)
    total = prunable_weights(model)
    assert heads_left(model) == count
    assert measure_sparsity(model).weights == round(sparsity * total) / total
    assert sum(measure_sparsity(model).heads_per_layer) == count


def test_the_trainer_and_the_report(tmp_path):
    model, method = make_model("bert"), NeuroPrune(heads=3, sparsity=0.6)
    make_trainer(method, model, tmp_path).train()
    assert heads_left(model) == 3
    report = json.loads(json.dumps(method.report))
    assert report["heads"] == 3 and report["theta"]["heads"] <= 3 and report["theta"]["value"] > 0
    assert [event["heads_removed"] for event in report["events"]] == [4, 5, 5]  # of 5: .70, .96 and all


def test_fewer_heads_are_a_subset_of_more():
    torch.manual_seed(0)
    groups = [UnitGroup(block, torch.rand(4), size=8, fewest=1) for block in range(4)]
    before = set()
    for going in range(10):
        chosen = choose_heads_first(groups[:3], groups[3:], going, room=0)
        now = {(layer, head) for layer, found in chosen.items() for head in found}
        assert len(now) == going and before <= now
        before = now


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"heads": 9}, "2 to 8"),
        ({"heads": 1}, "at least one"),
        ({"heads": 8, "sparsity": 0.9}, "choose a sparsity from"),
        ({"heads": 2, "sparsity": 0.05}, "choose a sparsity from"),
        ({"heads": 4, "theta": 0.1}, "not both"),
    ],
)
def test_what_cannot_be_had_is_refused(fields, says):
    with pytest.raises(UserError, match=says):
        train_bare(NeuroPrune(**fields), make_model("bert"))


def test_heads_that_share_keys_go_together():
    with pytest.raises(UserError, match="in steps of 2"):
        train_bare(NeuroPrune(heads=7), make_model("llama"), "llama")


def test_theta_is_the_smallest_that_leaves_no_more():
    """Against a literal scan over all distances; hand-worked: the nearest pair merges at its distance."""
    model = make_model("bert")
    distances = [heads.distances(a) for a in find_blocks(model).attentions]
    nearest = min(d[d > 0].min().item() for d in distances)
    assert heads.theta_for(distances, 7) == (pytest.approx(nearest), 7)
    assert heads.theta_for(distances, 8)[1] == 8
    for count in range(2, 9):
        theta, left = heads.theta_for(distances, count)
        assert left <= count
        lower = [d for matrix in distances for d in matrix[matrix < theta].tolist()]
        assert sum(heads.survivors(d, max(lower, default=-1.0)) for d in distances) > count or theta == 0


def test_the_reported_theta_leaves_so_many_heads_in_the_papers_form():
    model, method = make_model("bert"), NeuroPrune(heads=7)
    train_bare(method, model)
    theta = method.report["theta"]
    paper = make_model("bert")
    train_bare(NeuroPrune(theta=theta["value"]), paper, steps=2, lr=0.0)
    assert heads_left(paper) == theta["heads"]
