"""Padding never affects measurements, for all forms of masks and batches."""

import pytest
import torch
import transformers

from helpers.models import ROWS, VOCAB, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods.components.batch import Batch, token_mask
from neuroprune.methods.components.calibration import Calibration
from neuroprune.methods.components.distillation import Distillation
from neuroprune.pruning.blocks import find_blocks

PAD = 5


def model_of(kind, name="bert", **changes):
    """A tiny model of another class than its row's, without dropout."""
    row = ROWS[name]
    config = getattr(transformers, row.config)(vocab_size=VOCAB, **{**row.values, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        module.dropout = (
            0.0 if isinstance(getattr(module, "dropout", None), float) else getattr(module, "dropout", None)
        )
    return model


def measured(model, *batches, loss=lambda out: out.loss):
    found = Calibration(model, find_blocks(model))
    for batch in batches:
        loss(model(**batch)).backward()
    found.detach()
    return list(found.statistics.values())


def assert_same(found, expected):
    for got, wanted in zip(found, expected, strict=True):
        assert got.samples == wanted.samples
        torch.testing.assert_close(got.moments.matrix(), wanted.moments.matrix(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(got.connectivity, wanted.connectivity, rtol=1e-3, atol=1e-6)


def padded(batch, value=0):
    """The batch with `PAD` more columns of padding in all token tensors."""
    fill = {"labels": -100}
    return {
        key: torch.nn.functional.pad(tensor, (0, PAD), value=fill.get(key, value)) if key in TOKENS else tensor
        for key, tensor in batch.items()
    }


TOKENS = ("input_ids", "attention_mask", "token_labels")


def ids(*shape):
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def mask(*shape):
    lengths = shape[-1] - torch.arange(shape[0])
    return (torch.arange(shape[-1]).expand(shape) < lengths.view(-1, *[1] * (len(shape) - 1))).long()


BATCHES = {
    "BertForMultipleChoice": ("bert", {"input_ids": ids(3, 4, 7), "attention_mask": mask(3, 4, 7)}, [0, 3, 1]),
    "RobertaForMultipleChoice": ("roberta", {"input_ids": ids(2, 7, 7), "attention_mask": mask(2, 7, 7)}, [0, 6]),
    "DistilBertForMultipleChoice": ("distilbert", {"input_ids": ids(2, 3, 7), "attention_mask": mask(2, 3, 7)}, [0, 1]),
    "BertForSequenceClassification": ("bert", {"input_ids": ids(3, 7), "attention_mask": mask(3, 7)}, [0, 1, 1]),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_more_padding_changes_nothing(kind):
    name, batch, labels = BATCHES[kind]
    model, answer = model_of(kind, name), {"labels": torch.tensor(labels)}
    few = measured(model, batch | answer)
    assert_same(measured(model, padded(batch) | answer), few)
    assert few[0].samples == len(labels)


def test_the_choices_of_a_question_are_one_row():
    """Connectivity is the mean over questions of the squared derivative by a gate, over all choices of a question."""
    name, batch, labels = BATCHES["BertForMultipleChoice"]
    model = model_of("BertForMultipleChoice", name)
    blocks = find_blocks(model)
    found, mlp = Calibration(model, blocks, moments=None), blocks.mlps[0]
    model(**batch, labels=torch.tensor(labels)).loss.backward()
    found.detach()
    gate = torch.ones(mlp.width, requires_grad=True)
    hook = mlp.out.module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * gate,))
    losses = torch.nn.functional.cross_entropy(model(**batch).logits, torch.tensor(labels), reduction="none")
    squares = [torch.autograd.grad(loss, gate, retain_graph=True)[0].square() for loss in losses]
    hook.remove()
    torch.testing.assert_close(found.statistics[mlp].connectivity, torch.stack(squares).mean(0), rtol=1e-3, atol=1e-7)


def test_labels_of_tokens_are_no_mask():
    model = model_of("BertForTokenClassification")
    batch = {"input_ids": ids(3, 7), "attention_mask": mask(3, 7)}
    labels = (batch["input_ids"] % 2).masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, 0] = -100  # a special token, which counts as text
    few = measured(model, batch | {"labels": labels})
    more = padded(batch) | {"labels": torch.nn.functional.pad(labels, (0, PAD), value=-100)}
    assert_same(measured(model, more), few)
    assert float(few[0].moments.matrix()[-1, -1]) > 0


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_decoder_that_reads_the_input_has_its_padding(name):
    kind = {"bart": "BartForSequenceClassification", "t5": "T5ForQuestionAnswering"}[name]
    model, batch = model_of(kind, name), {"input_ids": ids(3, 7), "attention_mask": mask(3, 7)}
    found = Batch.from_call(type(model).forward, model, (), batch)
    assert torch.equal(found.decoder_mask, batch["attention_mask"].bool())
    if name == "bart":
        batch["input_ids"][:, 2] = 2  # end of text, where the head reads
        answer = {"labels": torch.tensor([0, 1, 1])}
        few, more = measured(model, batch | answer), measured(model, padded(batch) | answer)
        for got, wanted in zip(more, few, strict=True):
            tokens, expected = (seen.moments.matrix()[-1, -1] for seen in (got, wanted))
            torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4)


def test_a_decoder_without_labels_ends_where_its_text_does():
    """As in a Trainer with label smoothing, which does not pass the labels to the model."""
    model = make_model("bart")  # begins with 2, ends with 2, pads with 0
    decoder = torch.tensor([[2, 5, 6, 7, 8], [2, 5, 6, 2, 0], [2, 9, 2, 0, 0]])
    found = Batch.from_call(type(model).forward, model, (), {"input_ids": ids(3, 6), "decoder_input_ids": decoder})
    assert found.decoder_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2, [True] * 2 + [False] * 3]


FORMS = {
    "integers": lambda m: m,
    "bools": lambda m: m.bool(),
    "who reads whom, 0 and 1": lambda m: m[:, None, :].expand(-1, 7, -1) * m[:, :, None],
    "who reads whom, causal": lambda m: torch.ones(7, 7).tril() * m[:, None, :],
    "four dimensions, bools": lambda m: m.bool()[:, None, None, :].expand(-1, 1, 7, -1),
    "four dimensions, a head": lambda m: m.bool()[:, None, None, :].expand(-1, 4, 7, -1),
    "four dimensions, added": lambda m: (1.0 - m.float())[:, None, None, :] * torch.finfo(torch.float32).min,
    "four dimensions, infinite": lambda m: torch.zeros(m.shape).masked_fill(m == 0, -torch.inf)[:, None, None, :],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mask_tells_the_same_tokens(form):
    plain = mask(3, 7)
    assert torch.equal(token_mask(FORMS[form](plain), torch.Size((3, 7))), plain.bool())


def test_one_mask_for_all_rows_is_that_of_each():
    pattern = torch.ones(1, 1, 7, 7).tril().bool()
    assert torch.equal(token_mask(pattern, torch.Size((3, 7))), torch.ones(3, 7, dtype=torch.bool))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_sequences_are_rows(name):
    """The same sequences in one row whose positions restart, and in rows with padding."""
    model, lengths = model_of(ROWS[name].model, name, use_cache=False), (7, 4, 6)
    rows = make_batch(name)["input_ids"].masked_fill(make_batch(name)["attention_mask"] == 0, 3)
    texts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    apart = [{"input_ids": text[None]} for text in texts]
    packed = {
        "input_ids": torch.cat(texts)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
    }
    factors = torch.randn(VOCAB, generator=torch.Generator().manual_seed(2))
    total = len(lengths)
    one = measured(model, packed, loss=lambda out: (out.logits * factors).sum() / total)
    each = Calibration(model, find_blocks(model), weigh_tokens=False)
    for batch in apart:
        (model(**batch).logits * factors).sum().backward()
    each.detach()
    for got, wanted in zip(one, each.statistics.values(), strict=True):
        assert got.samples == wanted.samples == total
        torch.testing.assert_close(got.gates[:, -1, -1], wanted.gates[:, -1, -1], rtol=1e-3, atol=1e-4)


def test_positions_that_stand_still_in_padding_are_no_new_sequences():
    given = {"input_ids": ids(2, 6), "position_ids": torch.tensor([[1, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])}
    model = make_model("llama")
    padding = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])}
    assert Batch.from_call(type(model).forward, model, (), given | padding).packed is None
    assert Batch.from_call(type(model).forward, model, (), given).packed is not None


def test_a_mask_of_other_tokens_is_refused():
    batch = Batch(size=3, mask=torch.ones(3, 9, dtype=torch.bool))
    with pytest.raises(UserError, match=r"mask has \[3, 9\] rows and tokens, but a layer reads \[3, 7\]"):
        batch.real(False, torch.Size((3, 7, 16)))
    with pytest.raises(UserError, match="not a multiple of the batch's 3 rows"):
        batch.split(torch.ones(4, 7, 16))
    model = make_model("llama")
    with pytest.raises(UserError, match="dictionary of masks"):
        Batch.from_call(type(model).forward, model, (), {"attention_mask": {"full_attention": None}})


def test_distillation_leaves_the_padding_of_choices_out():
    name, batch, labels = BATCHES["BertForMultipleChoice"]
    student, teacher = model_of("BertForMultipleChoice", name), model_of("BertForMultipleChoice", name)
    for parameter in teacher.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    method = Distillation(student, teacher, 0.9, 2.0, lambda: torch.ones(2, dtype=torch.bool))
    answer = {"labels": torch.tensor(labels)}
    few, more = (student(**inputs, **answer).loss.item() for inputs in (batch, padded(batch)))
    method.detach()
    assert few == pytest.approx(more, rel=1e-4)
