"""Training resumes from the checkpoint of a cut model with a newly built model."""

import shutil

import pytest
import torch
from transformers import Trainer

from helpers.loops import make_trainer
from helpers.models import make_model
from neuroprune.errors import UserError
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.models.resumption import teach_trainer
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.surgery import remove

NAMES = ["bert", "t5", "opt"]  # events at steps 8, 10 and 12 of 24


def fit(folder, name, model=None, add_later=False, resume=None, method=None, save_steps=10):
    """Train for two epochs, or resume with a dense model."""
    method = method or NeuroPrune(sparsity=0.7, calibration_rows=8)
    model = model or make_model(name)
    trainer = make_trainer(method, model, folder, name=name, save_strategy="steps", save_steps=save_steps)
    if add_later:
        trainer.remove_callback(method)
        trainer.add_callback(method)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


def assert_same(model, expected):
    state, wanted = model.state_dict(), expected.state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: value.shape for n, value in wanted.items()}
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    ours, theirs = kept_units(model), kept_units(expected)
    assert ours.heads == theirs.heads
    assert [kept.tolist() for kept in ours.neurons] == [kept.tolist() for kept in theirs.neurons]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [10, 20])  # between events; after the last
def test_a_dense_model_goes_on_from_the_checkpoint_of_a_cut_one(name, step, tmp_path):
    expected = fit(tmp_path, name)
    for folder in tmp_path.glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    assert_same(fit(tmp_path, name, resume=True), expected)


def test_a_method_that_is_added_later_resumes_from_a_folder_of_its_own(tmp_path):
    expected = fit(tmp_path, "bert")
    assert_same(fit(tmp_path, "bert", add_later=True, resume=str(tmp_path / "checkpoint-20")), expected)


def test_a_checkpoint_before_the_first_event_is_loaded_as_ever(tmp_path):
    expected = fit(tmp_path, "bert", save_steps=5)
    for step in (10, 15, 20, 24):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert_same(fit(tmp_path, "bert", resume=True), expected)


def test_a_model_that_is_cut_otherwise_is_refused_in_a_sentence(tmp_path):
    fit(tmp_path, "bert")
    model = make_model("bert")
    remove(model, {0: [0]}, {0: range(9)})
    with pytest.raises(UserError, match=r"checkpoint-24: .*from_pretrained\(") as caught:
        fit(tmp_path, "bert", model, resume=True)
    assert "\n" not in str(caught.value)


def test_the_trainer_is_taught_once():
    NeuroPrune(sparsity=0.5)
    taught = Trainer._load_from_checkpoint
    teach_trainer()
    assert Trainer._load_from_checkpoint is taught
    assert not hasattr(taught.__wrapped__, "__wrapped__")
