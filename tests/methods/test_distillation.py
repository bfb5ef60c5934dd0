"""CoFi's distillation: its losses against literal formulas, its alignment by hand, and runs with a teacher."""

import pytest
import torch
import transformers
from torch.nn import functional

from helpers.loops import labelled_batch, make_run, make_trainer, take_step, train_bare
from helpers.models import ROWS, VOCAB, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.cofi.method import CoFi
from neuroprune.methods.components.distillation import (
    Distillation,
    align,
    label_loss,
    layer_distances,
    prediction_loss,
    shifts_labels,
    spread,
)
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.models.pretrained import save_pretrained
from neuroprune.pruning.residual_stream import remove_hidden
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


def test_the_label_loss_is_the_divergence_of_each_label():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    q, p = torch.sigmoid(student / 2.0), torch.sigmoid(teacher / 2.0)
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 2.0**2
    torch.testing.assert_close(label_loss(student, teacher, 2.0), by_hand)


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


def distilled(name, layers=0.0, student=None, teacher=None, **changes):
    """A student with a teacher of the same kind, both without dropout; the loss is distillation's until `detach`."""
    student = make_model(name, seed=1, **changes) if student is None else student
    teacher = make_model(name, seed=2, **changes) if teacher is None else teacher
    for module in student.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    everywhere = torch.ones(ROWS[name].mlps, dtype=torch.bool)
    return student, teacher, Distillation(student, teacher, layers, 2.0, lambda: everywhere)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_stack_is_aligned_with_its_own_remaining_layers(name):
    student, teacher, method = distilled(name)
    method.detach()
    batch = labelled_batch(name, seed=0)

    def loss(*alive):
        torch.manual_seed(0)  # of the attention's dropout
        method = Distillation(student, teacher, 1.0, 2.0, lambda: torch.tensor(alive))
        found = student(**batch).loss.item()
        method.detach()
        return found

    encoder, decoder = loss(True, True, False, False), loss(False, False, True, True)
    assert encoder > 0 and decoder > 0
    assert encoder + decoder == pytest.approx(loss(True, True, True, True), rel=1e-5)


def of_class(name, kind, **changes):
    """Two models of another class with the row's configuration."""
    config = getattr(transformers, ROWS[name].config)(vocab_size=VOCAB, **ROWS[name].values, **changes)
    return [getattr(transformers, kind)(config) for _ in range(2)]


def answers(batch):
    """Labels of the last three tokens of each row: the prompt is masked."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :-3] = -100
    return batch | {"labels": labels}


def packed():
    """Three sequences in one row; the first token of each has no label."""
    ids = torch.randint(3, VOCAB, (1, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]])
    return {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}


def shifted():
    """Labels that the caller has shifted already, with the last label of each row removed."""
    batch = answers(make_batch("llama"))
    return batch | {"shift_labels": functional.pad(batch["labels"][:, 1:-1], (0, 2), value=-100)}


@pytest.mark.parametrize(
    ("name", "kind", "batch"),
    [
        ("llama", None, answers(make_batch("llama"))),
        ("llama", None, packed()),
        ("llama", None, shifted()),
        ("gpt2", None, answers(make_batch("gpt2"))),
        ("opt", None, answers(make_batch("opt"))),
        ("bert-decoder", None, labelled_batch("bert-decoder", 0)),
        ("bert", "BertForMaskedLM", answers(make_batch())),
        ("bert", "BertForTokenClassification", answers(make_batch() | {"input_ids": torch.ones(3, 7).long()})),
        ("bart", "BartForCausalLM", answers(make_batch("llama"))),  # its own loss does not shift the labels
        ("t5", None, labelled_batch("t5", 0) | {"labels": torch.tensor([[5, -100, 7], [6, 8, -100]]).repeat(2, 1)}),
    ],
)
def test_predictions_are_compared_where_the_own_loss_compares_them(name, kind, batch):
    student, teacher = of_class(name, kind) if kind else (make_model(name, seed=1), make_model(name, seed=2))
    student, teacher, method = distilled(name, student=student, teacher=teacher)
    losses = []
    for _ in range(2):  # with the teacher, then the model's own
        outputs = student(**batch)
        losses.append(torch.autograd.grad(outputs.loss, outputs.logits)[0].abs().sum(dim=-1) > 0)
        method.detach()
    assert losses[0].any() and not losses[0].all()
    assert torch.equal(*losses)


def test_an_encoder_decoder_with_the_common_loss_does_not_shift():
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4}
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    config = transformers.MoonshineConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, **sizes)
    assert not shifts_labels(transformers.MoonshineForConditionalGeneration(config))


@pytest.mark.parametrize("problem_type", ["multi_label_classification", None])
def test_several_labels_per_row_are_learned_one_by_one(problem_type):
    student, teacher, method = distilled("bert", num_labels=3, problem_type=problem_type)
    batch = make_batch() | {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])}
    outputs = student(**batch)
    expected = label_loss(outputs.logits, teacher(**batch).logits, 2.0)
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    method.detach()


def test_tokens_have_one_class_each_whatever_the_problem_type():
    models = of_class("bert", "BertForTokenClassification", num_labels=3, problem_type="multi_label_classification")
    student, teacher, method = distilled("bert", student=models[0], teacher=models[1])
    batch = make_batch() | {"labels": make_batch()["input_ids"] % 3}
    outputs = student(**batch)
    pair = (logits.flatten(0, 1) for logits in (outputs.logits, teacher(**batch).logits))
    assert outputs.loss.item() == pytest.approx(prediction_loss(*pair, 2.0).item(), rel=1e-5)
    method.detach()


@pytest.mark.parametrize("name", ["llama", "bert", "labels"])
def test_the_passes_of_a_step_add_up_to_its_loss(name):
    if name == "labels":
        batch = make_batch(rows=4) | {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])}
        student, _, method = distilled("bert", num_labels=3)
        items = batch["labels"].numel()  # as the Trainer counts them
    else:
        batch = labelled_batch(name, seed=0, rows=4)  # of different lengths
        student, _, method = distilled(name)
        items = (batch["labels"][..., 1:] if name == "llama" else batch["labels"]).ne(-100).sum()
    whole = student(**batch).loss.item()
    assert student(**batch, num_items_in_batch=items).loss.item() == whole
    passes = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    found = sum(student(**each, num_items_in_batch=items).loss.item() for each in passes)
    assert found == pytest.approx(whole, rel=1e-5)
    method.detach()


def test_a_pass_without_labels_adds_nothing():
    student, _, method = distilled("llama", layers=0.5)
    batch = make_batch("llama") | {"labels": torch.full((3, 7), -100)}
    assert student(**batch, num_items_in_batch=torch.tensor(9)).loss.item() == 0
    method.detach()


@pytest.mark.parametrize("cut_teacher", [False, True])
def test_a_narrower_student_is_mapped_to_the_width_of_its_teacher(cut_teacher):
    student, teacher = make_model("bert", seed=1), make_model("bert", seed=2)
    remove_hidden(student, torch.arange(4, 16))
    if cut_teacher:
        remove_hidden(teacher, torch.arange(0, 14))
    student, teacher, method = distilled("bert", 1.0, student, teacher)
    batch = labelled_batch("bert", seed=0)
    layers = [model(**batch, output_hidden_states=True).hidden_states[1:] for model in (student, teacher)]
    width = 14 if cut_teacher else 16
    widened = [functional.pad(layer, (4, 0))[..., :width] for layer in layers[0]]  # zeros at the removed dimensions
    distances = layer_distances(list(layers[1]), widened, batch["attention_mask"].bool())
    partners = align(distances, torch.ones(2).bool())
    expected = sum(distances[i, j].item() for i, j in enumerate(partners) if j is not None)
    loss = student(**batch).loss
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    method.step(0.1)
    assert method.map.shape == (width, 12)
    method.detach()


def test_an_output_projected_to_another_width_is_no_layer():
    student, teacher, method = distilled("opt", 1.0, num_hidden_layers=3, word_embed_proj_dim=8, dropout=0.0)
    batch = labelled_batch("opt", seed=0)
    layers = [model(**batch, output_hidden_states=True).hidden_states[1:] for model in (student, teacher)]
    assert [layer.shape[-1] for layer in layers[0]] == [16, 16, 8]
    distances = layer_distances(list(layers[1][:2]), list(layers[0][:2]), batch["attention_mask"].bool())
    partners = align(distances, torch.ones(2).bool())
    expected = sum(distances[i, j].item() for i, j in enumerate(partners) if j is not None)
    assert student(**batch).loss.item() == pytest.approx(expected, rel=1e-5)
    method.detach()


def test_a_single_layer_with_a_projected_output_has_no_layer_to_teach():
    student, _, method = distilled("opt", 1.0, num_hidden_layers=1, word_embed_proj_dim=8)
    with pytest.raises(UserError, match="layer_share: no layer's output among the hidden_states"):
        student(**labelled_batch("opt", seed=0))
    method.detach()


@pytest.mark.parametrize("own", [True, False])
def test_a_narrower_model_learns_from_a_teacher(own, tmp_path):
    save_pretrained(make_model("bert", seed=3), tmp_path)
    model, method = make_model("bert"), CoFi(sparsity=0.6, teacher="run" if own else str(tmp_path), start=0.2, end=0.7)
    remove_hidden(model, torch.arange(4, 16))
    train_bare(method, model, steps=20)
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.01)


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
