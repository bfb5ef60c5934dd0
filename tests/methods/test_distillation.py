"""CoFi's distillation: its losses against literal formulas, its alignment by hand, and runs with a teacher."""

import pytest
import torch
from torch.nn import functional

from helpers.loops import labelled_batch, make_run, make_trainer, take_step, train_bare
from helpers.models import make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.cofi.method import CoFi
from neuroprune.methods.components.distillation import Distillation, align, layer_distances, prediction_loss, spread
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.models.pretrained import save_pretrained
from neuroprune.pruning.sparsity import measure_sparsity


def assert_detached(model):
    """Assert that none of our hooks remain; transformers' own hooks for recording layers stay."""
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_the_prediction_loss_is_the_published_one():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    published = functional.kl_div(
        input=functional.log_softmax(student / 2.0, dim=-1),
        target=functional.softmax(teacher / 2.0, dim=-1),
        reduction="batchmean",
    ) * (2.0**2)
    torch.testing.assert_close(prediction_loss(student, teacher, 2.0), published)
    assert prediction_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_layers_are_compared_where_there_are_tokens():
    teacher, student = [torch.zeros(2, 3, 4)], [torch.ones(2, 3, 4), torch.zeros(2, 3, 4)]
    student[1][1, 2] = 7  # padding
    present = torch.tensor([[True, True, True], [True, True, False]])
    assert layer_distances(teacher, student, present).tolist() == [[1.0, 0.0]]


def test_the_layers_that_teach_are_spread_as_published():
    assert spread(12) == [2, 5, 8, 11]
    assert spread(6) == [1, 2, 4, 5]
    assert spread(3) == [0, 1, 2]
    assert spread(1) == [0]


def test_partners_by_hand():
    distances = torch.tensor([[1.0, 2, 3, 4], [9, 8, 1, 2], [5, 4, 1, 6]])
    everywhere = torch.ones(4, dtype=torch.bool)
    assert align(distances, everywhere) == [0, 1, 2]  # the last takes 2, so the middle one has to lie below it
    assert align(distances, torch.tensor([True, True, False, True])) == [None, 0, 1]
    assert align(distances, torch.tensor([False] * 4)) == [None] * 3


def test_partners_are_those_of_the_literal_search():
    """The published search (version 4), with the mask looked up for the correct layers."""
    torch.manual_seed(0)
    for _ in range(20):
        losses, existing = torch.rand(4, 12), torch.rand(12) > 0.3
        last, alignment = 12, []
        for search_index in range(3, -1, -1):
            indexes = losses[search_index].sort()[1]
            found = indexes[(indexes < last) & existing[indexes]]
            alignment.append(int(found[0]) if len(found) else None)
            last = int(found[0]) if len(found) else 0
        assert align(losses, existing) == alignment[::-1]


def test_the_loss_of_a_batch_is_the_sum_of_its_formulas():
    student, teacher = make_model("bert", seed=1).train(), make_model("bert", seed=2)
    student.apply(lambda module: setattr(module, "p", 0.0) if isinstance(module, torch.nn.Dropout) else None)
    batch = labelled_batch("bert", seed=0)
    plain = [model(**batch, output_hidden_states=True) for model in (student, teacher)]
    found, wanted = ([layer[batch["attention_mask"].bool()] for layer in out.hidden_states[1:]] for out in plain)
    distances = torch.tensor([[((s - t) ** 2).mean().item() for s in found] for t in wanted])
    partners = align(distances, torch.ones(len(found), dtype=torch.bool))
    layers = sum(float(distances[i, j]) for i, j in enumerate(partners) if j is not None)
    expected = 0.3 * float(prediction_loss(plain[0].logits, plain[1].logits, 2.0)) + 0.7 * layers
    method = Distillation(student, teacher, 0.7, 2.0, lambda: torch.ones(len(found), dtype=torch.bool))
    assert student(**batch).loss.item() == pytest.approx(expected, rel=1e-4)
    assert student.eval()(**batch).loss.item() == pytest.approx(plain[0].loss.item(), rel=1e-4)  # judged as ever
    method.detach()
    assert_detached(student)


@pytest.mark.parametrize("name", ["bert", "t5", "opt"])
@pytest.mark.parametrize("own", [True, False])
def test_a_run_with_a_teacher_reaches_its_target(name, own, tmp_path):
    save_pretrained(make_model(name, seed=3), tmp_path / "teacher")
    teacher = "run" if own else str(tmp_path / "teacher")
    model, method = make_model(name), CoFi(sparsity=0.6, teacher=teacher, start=0.2, end=0.7)
    train_bare(method, model, name, steps=20)
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.01)
    assert_detached(model)
    assert torch.isfinite(model(**make_batch(name)).logits).all()


def test_it_works_in_the_trainer(tmp_path):
    model, method = make_model("bert"), CoFi(sparsity=0.6, teacher="run", start=0.2, end=0.7)
    make_trainer(method, model, tmp_path).train()
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("stop", [5, 12, 16])
def test_a_run_with_a_teacher_may_stop_and_go_on(stop, tmp_path):
    fields = {"sparsity": 0.6, "teacher": "run", "start": 0.2, "end": 0.7}
    models, steps = [make_model("bert"), make_model("bert")], 20
    torch.manual_seed(0)
    train_bare(CoFi(**fields), models[0], steps=steps)
    torch.manual_seed(0)
    first, run = CoFi(**fields), make_run(models[1].train(), steps)
    first.start(run)
    while run.step < stop:
        take_step(first, run)
    save_state(tmp_path, first.state_dict())
    noise = torch.get_rng_state()
    first.strategy.stage.detach()
    first.strategy.distillation.detach()
    second = CoFi(**fields)
    second.resume(run, load_state(tmp_path))
    torch.set_rng_state(noise)
    while run.step < steps:
        take_step(second, run)
    second.finish(run)
    for expected, got in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_teacher_of_another_kind_is_refused(tmp_path):
    save_pretrained(make_model("bert", hidden_size=32), tmp_path / "wide")
    method, model = CoFi(sparsity=0.6, teacher=str(tmp_path / "wide")), make_model("bert")
    with pytest.raises(UserError, match=r"teacher: hidden_size of the model in .* is 32, but the student's is 16"):
        method.start(make_run(model, 10))
    with pytest.raises(UserError, match="needs fine-tuning before pruning"):
        CoFi(sparsity=0.6, teacher="run", start=0)
