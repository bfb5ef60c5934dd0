"""NeuroPrune-FC with a teacher: choice of teacher, start of distillation, and interruptions."""

import pytest
import torch
from pydantic import ValidationError

from helpers.loops import labelled_batch, make_run, make_trainer, take_step, train_bare
from helpers.models import WIDTH, make_model
from neuroprune import CoFi, NeuroPrune, measure_sparsity, save_pretrained
from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.errors import UserError
from neuroprune.methods.components.distillation import align, prediction_loss
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.pruning.surgery import remove

FIELDS = {"sparsity": 0.6, "calibration_rows": 8}  # events after steps 7, 8 and 10 of 20


def no_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def begun(method, model, steps):
    """A run of twenty steps with some steps completed."""
    run = make_run(model.train(), 20)
    method.start(run)
    while run.step < steps:
        take_step(method, run)
    return run


def losses(model):
    """The model's training loss with distillation, and without."""
    batch = labelled_batch("bert", seed=99)
    output = model(**batch)
    return output.loss.item(), torch.nn.functional.cross_entropy(output.logits, batch["labels"]).item()


def test_the_own_start_teaches_from_the_first_removal_on():
    model, method = no_dropout(make_model("bert")), NeuroPrune(**FIELDS, teacher="run")
    run = begun(method, model, 6)
    reported, own = losses(model)
    assert reported == pytest.approx(own, rel=1e-5)
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    take_step(method, run)
    teacher = method.strategy._teaching._distillation.teacher
    assert measure_sparsity(model).weights > 0 == measure_sparsity(teacher).weights
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(abs(value - dense[name]).max() < 0.01 for name, value in teacher.state_dict().items())
    batch = labelled_batch("bert", seed=99)
    wanted = prediction_loss(model(**batch).logits, teacher(**batch).logits, 2.0)
    assert losses(model)[0] == pytest.approx(wanted.item(), rel=1e-5)
    method.abandon()
    reported, own = losses(model)
    assert reported == pytest.approx(own, rel=1e-5)


def test_a_folder_teaches_from_the_first_step(tmp_path):
    save_pretrained(make_model("bert", seed=3), tmp_path)
    model, method = no_dropout(make_model("bert")), NeuroPrune(**FIELDS, teacher=str(tmp_path), teacher_temperature=3.0)
    begun(method, model, 0)
    batch, teacher = labelled_batch("bert", seed=99), make_model("bert", seed=3).eval()
    wanted = prediction_loss(model(**batch).logits, teacher(**batch).logits, 3.0)
    assert losses(model)[0] == pytest.approx(wanted.item(), rel=1e-5)
    method.abandon()


@pytest.mark.parametrize("own", [True, False])
def test_hidden_states_are_learned_beside_predictions(own, tmp_path):
    save_pretrained(make_model("bert", seed=3), tmp_path)
    model = no_dropout(make_model("bert"))
    method = NeuroPrune(**FIELDS, teacher="run" if own else str(tmp_path), layer_share=0.75)
    begun(method, model, 12)
    batch, teacher = labelled_batch("bert", seed=99), method.strategy._teaching._distillation.teacher
    student, wanted = (each(**batch, output_hidden_states=True) for each in (model, teacher))
    learned_map = method.strategy._teaching._distillation.map
    assert not torch.equal(learned_map, torch.eye(16))  # it is trained with the model
    tokens = batch["attention_mask"].bool()
    found = [torch.nn.functional.linear(layer, learned_map)[tokens] for layer in student.hidden_states[1:]]
    distances = torch.stack(
        [torch.stack([((s - t[tokens]) ** 2).mean() for s in found]) for t in wanted.hidden_states[1:]]
    )
    partners = align(distances, torch.ones(2, dtype=torch.bool))
    layers = sum(distances[i, j].item() for i, j in enumerate(partners) if j is not None)
    expected = 0.25 * prediction_loss(student.logits, wanted.logits, 2.0).item() + 0.75 * layers
    assert losses(model)[0] == pytest.approx(expected, rel=1e-4)
    method.abandon()


def test_layers_that_are_empty_learn_nothing():
    model = make_model("bert")
    remove(model, {}, {1: range(WIDTH)})
    method = NeuroPrune(**FIELDS, teacher="run", layer_share=0.9)
    begun(method, model, 12)
    assert method.strategy._teaching._distillation._alive().tolist() == [True, False]
    method.abandon()


def test_hidden_states_need_a_teacher():
    with pytest.raises(ValidationError, match="layer_share needs a teacher"):
        NeuroPruneSettings(sparsity=0.5, layer_share=0.9)


@pytest.mark.parametrize("layer_share", [0.0, 0.9])
@pytest.mark.parametrize("name", ["bert", "t5", "opt"])
def test_the_target_is_met_and_nothing_stays_on_the_model(name, layer_share):
    model, method = make_model(name), NeuroPrune(**FIELDS, teacher="run", layer_share=layer_share)
    train_bare(method, model, name, steps=20)
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.01)
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("layer_share", [0.0, 0.9])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("stop", [4, 9, 15])
def test_a_run_with_a_teacher_resumes_to_the_same_weights(own, stop, layer_share, tmp_path):
    save_pretrained(make_model("bert", seed=3), tmp_path / "teacher")
    fields = FIELDS | {"layer_share": layer_share, "teacher": "run" if own else str(tmp_path / "teacher")}
    models = [no_dropout(make_model("bert")), no_dropout(make_model("bert"))]
    train_bare(NeuroPrune(**fields), models[0], steps=20)
    first = NeuroPrune(**fields)
    run = begun(first, models[1], stop)
    save_state(tmp_path, first.state_dict())
    first.abandon()
    second = NeuroPrune(**fields)
    second.resume(run, load_state(tmp_path))
    while run.step < 20:
        take_step(second, run)
    second.finish(run)
    for expected, got in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(got, expected)


def test_it_works_in_the_trainer_and_for_numbers(tmp_path):
    model = make_model("bert", num_labels=1, problem_type="regression")
    trainer = make_trainer(NeuroPrune(**FIELDS, teacher="run"), model, tmp_path)
    for row in trainer.train_dataset:
        row["labels"] = row["labels"].float()
    trainer.train()
    assert measure_sparsity(model).weights == pytest.approx(0.6, abs=0.01)


def test_accumulated_passes_learn_as_one(tmp_path):
    save_pretrained(make_model("llama", seed=3), tmp_path / "teacher")
    logs = []
    for passes in (1, 4):
        method, rows = NeuroPrune(**FIELDS, teacher=str(tmp_path / "teacher"), layer_share=0.5), 8 // passes
        settings = {"gradient_accumulation_steps": passes, "per_device_train_batch_size": rows, "logging_steps": 1}
        trainer = make_trainer(method, make_model("llama"), tmp_path, name="llama", max_steps=3, **settings)
        trainer.train()
        logs.append([row[key] for row in trainer.state.log_history[:2] for key in ("loss", "grad_norm")])
    assert logs[1] == pytest.approx(logs[0], rel=0.01)


def test_settings_without_a_teacher_are_what_they_were():
    assert not {"teacher", "teacher_temperature", "layer_share"} & NeuroPruneSettings(sparsity=0.5).model_dump().keys()
    assert NeuroPruneSettings(sparsity=0.5, teacher="run").model_dump()["teacher"] == "run"


@pytest.mark.parametrize("others", [{"alpha": 0.1}, {"sparsity": 0.5, "algorithm": "penalties"}])
def test_the_penalties_have_no_teacher(others):
    with pytest.raises(ValidationError, match="teacher is for the target form"):
        NeuroPruneSettings(**others, teacher="run")


def test_a_teacher_of_another_kind_is_refused(tmp_path):
    save_pretrained(make_model("bert", hidden_size=32), tmp_path)
    with pytest.raises(UserError, match=r"teacher: hidden_size of the model in .* is 32"):
        begun(NeuroPrune(**FIELDS, teacher=str(tmp_path)), make_model("bert"), 0)


@pytest.mark.parametrize("method", [NeuroPrune(**FIELDS, teacher="run"), CoFi(sparsity=0.5, teacher="run")])
def test_a_trainer_that_computes_the_loss_itself_is_refused_at_the_start(method, tmp_path):
    trainer = make_trainer(method, make_model("bert"), tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(UserError, match=r"label_smoothing_factor=0\.1.*leave teacher out"):
        trainer.train()
    assert trainer.state.global_step == 0
