"""Saving and loading: bitwise restoration everywhere in transformers, or one clear error."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_surgery import uneven_cut

from helpers.models import VOCAB, each_model, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.models import pretrained
from neuroprune.models.pretrained import from_pretrained, save_pretrained
from neuroprune.pruning.surgery import kept_units, remove


@pytest.fixture
def saved(tmp_path):
    """Return the folder of a cut BERT."""
    model = make_model("bert")
    remove(model, {0: [1, 2]}, {1: [0, 5, 6]})
    save_pretrained(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*words, *(f"w{i}" for i in range(VOCAB - len(words)))]))
    return transformers.BertTokenizer(str(vocab))


def assert_same(model, other):
    """The same class, units and weights, bit by bit."""
    assert type(model) is type(other)
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(value.equal(other.state_dict()[name]) for name, value in model.state_dict().items())
    assert kept_units(model).heads == kept_units(other).heads
    assert all(a.equal(b) for a, b in zip(kept_units(model).neurons, kept_units(other).neurons, strict=True))
    assert kept_units(model).dense_neurons == kept_units(other).dense_neurons


# ---- the same model comes back


@each_model
def test_loads_bit_by_bit_and_again_after_a_second_save(name, tmp_path):
    model, batch = make_model(name), make_batch(name)
    remove(model, *uneven_cut(name))
    save_pretrained(model, tmp_path / "one")
    loaded = from_pretrained(tmp_path / "one")
    save_pretrained(loaded, tmp_path / "two")
    for other in (loaded, from_pretrained(tmp_path / "two")):
        assert_same(model, other)
        assert not other.training
        torch.testing.assert_close(logits(other, batch), logits(model, batch), atol=1e-6, rtol=0)
    files = [sorted(file.name for file in (tmp_path / name_).iterdir()) for name_ in ("one", "two")]
    assert files[0] == files[1]


def test_an_uncut_model_is_saved_like_any_other(tmp_path):
    model = make_model("bert")
    save_pretrained(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert_same(model, from_pretrained(tmp_path))


def test_bf16_stays_bf16(tmp_path):
    model = make_model("llama").to(torch.bfloat16)
    remove(model, {0: [0, 1]})
    save_pretrained(model, tmp_path)
    assert_same(model, from_pretrained(tmp_path))


def test_a_loaded_model_can_be_cut_again(saved, tmp_path):
    model = from_pretrained(saved)
    remove(model, {0: [0]}, {1: [0]})
    save_pretrained(model, tmp_path / "again")
    assert_same(model, from_pretrained(tmp_path / "again"))
    assert kept_units(model).heads[0] == [3] and kept_units(model).neurons[1].tolist()[:3] == [2, 3, 4]


def test_a_loaded_model_is_a_plain_model(saved):
    model = from_pretrained(saved)
    assert not getattr(model, "is_quantized", False) and not hasattr(model, "hf_quantizer")
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.half().float()


def test_saving_replaces_a_model_and_leaves_other_files(saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "model-00001-of-00002.safetensors").write_bytes(b"old shard")
    model = make_model("bert", seed=1)
    save_pretrained(model, saved)
    assert sorted(file.name for file in saved.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    assert_same(model, from_pretrained(saved))


def test_a_failed_save_leaves_the_old_model(saved):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("disk full")

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(make_model("bert", seed=1), saved, Broken())
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_a_model_that_cannot_take_its_place_is_kept(saved):
    (saved / "model-old.safetensors").mkdir()  # which is no file to delete
    model = make_model("bert", seed=1)
    with pytest.raises(UserError, match=r"model can't be written .*; the missing files are kept in ") as caught:
        save_pretrained(model, saved)
    assert_same(model, from_pretrained(str(caught.value).split("kept in ")[1].rstrip(".")))


def test_what_a_killed_save_left_is_not_mixed_in(saved):
    for process in (os.getpid(), "x"):
        (saved / f".new-{process}").mkdir()
        (saved / f".new-{process}" / "model.safetensors.index.json").write_text("{}")
    model = make_model("bert", seed=1)
    save_pretrained(model, saved)
    assert not (saved / "model.safetensors.index.json").exists()
    assert_same(model, from_pretrained(saved))


# ---- everywhere in transformers


def test_transformers_own_loading_gives_the_same_model(saved):
    ours = from_pretrained(saved)
    assert_same(ours, transformers.AutoModelForSequenceClassification.from_pretrained(saved))
    assert_same(ours.bert, transformers.AutoModel.from_pretrained(saved))
    assert_same(ours.bert, from_pretrained(saved, transformers.AutoModel))


def test_transformers_own_saving_keeps_the_record(tmp_path):
    model = make_model("t5")
    remove(model, *uneven_cut("t5"))
    model.save_pretrained(tmp_path)
    assert_same(model, from_pretrained(tmp_path))


def test_a_part_of_a_model_loads_with_its_part_of_the_record(tmp_path):
    model = make_model("t5")
    remove(model, *uneven_cut("t5"))
    save_pretrained(model, tmp_path)
    part = from_pretrained(tmp_path, transformers.T5EncoderModel)
    assert kept_units(part).heads == kept_units(model).heads[:2]
    assert all(a.equal(b) for a, b in zip(part.encoder.parameters(), model.encoder.parameters(), strict=True))


def test_weights_that_another_class_needs_are_never_made_up(tmp_path):
    save_pretrained(make_model("bert"), tmp_path)
    with pytest.raises(UserError, match="missing keys cls"):
        from_pretrained(tmp_path, transformers.AutoModelForMaskedLM)


def test_other_layers_are_in_the_right_place_after_loading(tmp_path):
    """T5's position bias depends on the positions of the remaining heads, not only on their number."""
    model, batch = make_model("t5"), make_batch("t5")
    remove(model, {0: [0, 1, 2], 1: [0, 1], 2: [1], 4: [2, 3]})
    save_pretrained(model, tmp_path)
    torch.testing.assert_close(logits(from_pretrained(tmp_path), batch), logits(model, batch), atol=1e-6, rtol=0)


def test_weights_lie_in_memory_of_their_own(tmp_path):
    """Weights are copied to aligned memory, because sums over unaligned memory are rounded differently."""
    save_pretrained(make_model("bert"), tmp_path)
    assert {p.data_ptr() % 64 for p in from_pretrained(tmp_path).parameters()} == {0}


def test_trainer_trains_saves_and_resumes_a_loaded_model(saved, tmp_path):
    rows = [{"input_ids": torch.tensor([5, 6, 7 + i]), "labels": i % 2} for i in range(12)]

    def trainer(model, steps):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=3,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return transformers.Trainer(model, arguments, train_dataset=rows)

    first = from_pretrained(saved)
    trainer(first, 2).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert_same(first, from_pretrained(checkpoint))
    assert trainer(from_pretrained(checkpoint), 4).train(resume_from_checkpoint=str(checkpoint)).global_step == 4


def test_tokenizer_is_saved_beside_the_model(tokenizer, tmp_path):
    save_pretrained(make_model("bert"), tmp_path / "both", tokenizer)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "both")("a b")["input_ids"] == [2, 5, 6, 3]


def test_a_compiled_model_is_saved_like_the_model_itself(tmp_path):
    model = make_model("bert")
    remove(model, *uneven_cut("bert"))
    save_pretrained(torch.compile(model, backend="eager"), tmp_path)
    assert_same(model, from_pretrained(tmp_path))
    assert "pruned" in (tmp_path / "README.md").read_text()


def test_an_empty_tokenizer_is_saved_too(tmp_path):
    class Empty:
        def __len__(self):
            return 0

        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}")

    save_pretrained(make_model("bert"), tmp_path, Empty())
    assert (tmp_path / "tokenizer.json").exists()


# ---- from the hub


def from_cache(cache, name):
    """Load a model by its id in a process with the hub's cache but without network; return its output."""
    code = (
        "import sys; from neuroprune import from_pretrained\n"
        "model = from_pretrained(sys.argv[1]); print(model.config.name_or_path)\n"
        "print(sum(weight.double().abs().sum() for weight in model.parameters()).item())"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", code, name]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_a_hub_id_gives_the_model_that_was_pushed(saved, tmp_path):
    pushed(saved, tmp_path / "cache")
    done = from_cache(tmp_path / "cache", "someone/small-bert")
    assert done.returncode == 0, done.stderr
    name, total = done.stdout.split()
    assert name == "someone/small-bert"
    weights = from_pretrained(saved).parameters()
    assert float(total) == pytest.approx(float(sum(weight.double().abs().sum() for weight in weights)), rel=1e-9)


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_one_sentence(tmp_path):
    last = from_cache(tmp_path, "someone/small-bert").stderr.strip().splitlines()[-1]
    assert "someone/small-bert is neither a folder nor can it be had from the hub (" in last
    assert last.endswith("); give the folder of a saved model, or check the name and the network.")


def pushed(saved, cache, inside="."):
    """Put a saved model into a cache of the hub."""
    repository = cache / "models--someone--small-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(saved, repository / "snapshots" / ("a" * 40) / inside)


@pytest.mark.parametrize("inside", [".", "inner"])
def test_a_hub_model_is_found_in_another_cache_and_in_a_subfolder(inside, saved, tmp_path):
    pushed(saved, tmp_path / "other", inside)
    where = {"cache_dir": tmp_path / "other", "local_files_only": True}
    where |= {} if inside == "." else {"subfolder": inside}
    assert_same(from_pretrained(saved), from_pretrained("someone/small-bert", **where))
    with pytest.raises(UserError, match="someone/small-bert is neither a folder nor"):
        from_pretrained("someone/small-bert", local_files_only=True, cache_dir=tmp_path / "empty")


def test_all_options_of_the_hub_reach_the_look_up_of_the_configuration(monkeypatch):
    seen = []
    monkeypatch.setattr(pretrained, "hf_hub_download", lambda *_, **given: seen.append(given) or "/nowhere/config.json")
    options = {"token": "t", "force_download": True, "revision": "r", "local_files_only": True, "subfolder": "s"}
    with pytest.raises(UserError):
        from_pretrained("someone/small-bert", cache_dir="c", dtype="float16", **options)
    assert seen == [options | {"cache_dir": "c"}] * 2


def test_a_local_model_is_found_in_a_subfolder(saved):
    assert_same(from_pretrained(saved), from_pretrained(saved.parent, subfolder=saved.name))
    assert_same(from_pretrained(saved), from_pretrained(str(saved.parent), subfolder=saved.name))
    (saved / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="this is an adapter"):
        from_pretrained(saved.parent, subfolder=saved.name)


# ---- damaged folders


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


MASK = ["quantization_config", "neurons", "encoder.layer.1.intermediate"]
DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "contains no saved model"),
    "config cut off": (lambda folder: (folder / "config.json").write_text('{"arch'), "contains no saved model"),
    "config of another kind": (lambda folder: (folder / "config.json").write_text("[]"), "contains no saved model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "can't load the model"),
    "weights cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-99]),
        "can't load the model",
    ),
    "no architectures": (lambda folder: change_config(folder, lambda c: c.pop("architectures")), "pass auto_class"),
    "unknown architecture": (
        lambda folder: change_config(folder, lambda c: c.update(architectures=["BertForSequenceClasification"])),
        "did you mean 'BertForSequenceClassification'",
    ),
    "record lost": (
        lambda folder: change_config(folder, lambda c: c.pop("quantization_config")),
        r"bert.encoder.layer.0.attention.output.dense.weight has the shape \[16, 8\], but its config.json requires "
        r"\[16, 16\] \(and 9 more\); save it again.$",
    ),
    "record of fewer": (lambda folder: change_mask(folder, "fff"), "can't load"),
    "record of none": (lambda folder: change_mask(folder, "0"), "can't load the model"),
    "record unreadable": (lambda folder: change_mask(folder, "?"), "can't load"),
    "weight lost": (lambda folder: change_weights(folder, lambda w: w.pop("classifier.weight")), "missing keys class"),
    "weight too many": (
        lambda folder: change_weights(folder, lambda w: w.update(more=torch.ones(1))),
        "unexpected keys more",
    ),
}


def change_mask(folder, mask):
    change_config(folder, lambda c: c[MASK[0]][MASK[1]][MASK[2]].update(kept=mask))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(damage, saved):
    break_it, message = DAMAGES[damage]
    break_it(saved)
    with pytest.raises(UserError, match=message) as caught:
        from_pretrained(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="contains no saved model"):
        from_pretrained(tmp_path / "nowhere")


# ---- the package's front door


def test_importing_the_package_loads_nothing_heavy():
    script = "import neuroprune, sys; dir(neuroprune); print('torch' in sys.modules, 'transformers' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]


def test_public_names_are_what_they_seem():
    import neuroprune

    assert neuroprune.from_pretrained is from_pretrained and neuroprune.remove is remove
    assert neuroprune.topology.__name__ == "neuroprune.pruning.topology"
    assert set(neuroprune.__all__) <= set(dir(neuroprune))
    assert all(getattr(neuroprune, name) is not None for name in neuroprune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        neuroprune.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"dtype": torch.bfloat16}, lambda model: next(model.parameters()).dtype == torch.bfloat16),
        ({"dtype": "float16"}, lambda model: next(model.parameters()).dtype == torch.float16),
        ({"attn_implementation": "eager"}, lambda model: model.config._attn_implementation == "eager"),
        ({"device_map": "cpu"}, lambda model: model.device.type == "cpu"),
        ({"hidden_dropout_prob": 0.25}, lambda model: model.bert.embeddings.dropout.p == 0.25),
    ],
)
def test_loading_takes_the_options_of_transformers(options, seen, tmp_path):
    model = make_model("bert")
    remove(model, {0: [1]}, {1: [2]})
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, **options)
    assert seen(loaded) and kept_units(loaded).heads == kept_units(model).heads


def test_a_model_whose_layers_are_offloaded_computes_the_same(tmp_path):
    model = make_model("t5").eval()
    last = len(model.encoder.block) - 1
    remove(model, {last: [1]})
    save_pretrained(model, tmp_path / "model")
    places = {name: "cpu" for name, module in model.named_modules() if not list(module.children())}
    places = {name: "cpu" for name in places if not name.startswith(f"encoder.block.{last}.")}
    places[f"encoder.block.{last}"] = "disk"
    loaded = from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offloaded").eval()
    assert next(loaded.encoder.block[-1].parameters()).device.type == "meta"
    batch = make_batch("t5")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)


def test_an_option_that_fails_is_named(tmp_path):
    make_model("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"attn_implementation.*check attn_implementation"):
        from_pretrained(tmp_path, attn_implementation="telepathy")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device exists")
@pytest.mark.parametrize("device", ["cuda", {"": "cuda:0"}, 0])
def test_a_device_that_does_not_exist_is_one_sentence(device, saved):
    with pytest.raises(UserError, match=r"can't load the model in .*; check device_map, or save it again\.$"):
        from_pretrained(saved, device_map=device)


def test_other_shapes_are_refused_unless_they_are_to_be_ignored(saved):
    other = {"num_labels": 7}
    with pytest.raises(UserError, match=r"classifier.bias has the shape \[2\], .* requires \[7\] .*check num_labels"):
        from_pretrained(saved, **other)
    assert from_pretrained(saved, **other, ignore_mismatched_sizes=True).classifier.out_features == 7
