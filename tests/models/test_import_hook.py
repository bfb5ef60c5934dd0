"""Import hook: after `import neuroprune`, in any order, plain transformers loads and saves cut models."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from test_pretrained import assert_same, tokenizer  # noqa: F401  (a fixture)

import neuroprune
from helpers.models import VOCAB, make_batch, make_model
from neuroprune.pruning.kept_units import names_record

ORDERS = {
    "neuroprune first": "import neuroprune, transformers",
    "transformers first": "import transformers, neuroprune",
    "after transformers has loaded its models": "import transformers; transformers.BertModel; import neuroprune",
    "after a name of transformers": "from transformers import AutoModel; import transformers, neuroprune",
    "through a name of neuroprune": "from neuroprune import from_pretrained; import transformers",
    "after an attempt without it": (
        "import sys, transformers\n"
        "try: transformers.AutoModel.from_pretrained(sys.argv[1]); raise SystemExit('loaded without neuroprune')\n"
        "except RuntimeError as error: assert 'mismatch' in str(error)\n"
        "import neuroprune"
    ),
}
LOAD = (
    "\nimport sys, torch\n"
    "ids = torch.arange(5, 12)[None]\n"
    "model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
    "model.save_pretrained(sys.argv[2])\n"
    "again = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[2])\n"
    "assert torch.equal(model(ids).logits, again(ids).logits)\n"
    "pipe = transformers.pipeline('text-classification', model=sys.argv[2], tokenizer=sys.argv[1], device='cpu')\n"
    "print(*model(ids).logits[0].tolist(), pipe('a b')[0]['score'])\n"
    "assert not any(type(finder).__module__ == 'neuroprune.models.import_hook' for finder in sys.meta_path)\n"
)


def python(code, *words):
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def saved(tmp_path, tokenizer):  # noqa: F811
    """Return a cut BERT and its folder, tokenizer included."""
    model = make_model("bert")
    neuroprune.remove(model, {0: [1, 2]}, {1: [0, 5, 6]})
    neuroprune.save_pretrained(model, tmp_path / "model", tokenizer)
    return model, tmp_path / "model", tokenizer


@pytest.mark.parametrize("order", ORDERS)
def test_one_import_is_all_it_takes(order, saved, tmp_path):
    model, folder, tokenizer = saved  # noqa: F811
    shown = [float(value) for value in python(ORDERS[order] + LOAD, folder, tmp_path / "again").split()]
    with torch.no_grad():
        expected = model(torch.arange(5, 12)[None]).logits[0].tolist()
        score = model(**tokenizer("a b", return_tensors="pt")).logits.softmax(-1).max().item()
    assert shown == pytest.approx([*expected, score], abs=1e-5)


def test_it_waits_for_transformers_without_loading_it():
    code = (
        "import sys, neuroprune\n"
        "neuroprune.models.import_hook.teach_transformers()\n"
        "print(sum(type(finder).__module__ == 'neuroprune.models.import_hook' for finder in sys.meta_path))\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert python(code).split("\n")[:2] == ["1", "set()"]


def test_a_module_that_fails_to_import_can_be_imported_later(tmp_path):
    """The finder stays until its module was executed, and changes nothing of the module's loader."""
    package = tmp_path / "transformers"
    (package / "quantizers").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "quantizers" / "__init__.py").write_text("import sys\nif not hasattr(sys, 'ready'): raise ImportError")
    code = (
        "import sys, types\nsys.path.insert(0, sys.argv[1])\nimport neuroprune\n"
        "sys.modules['neuroprune.models.quantizer'] = types.ModuleType('loading')\n"
        "try: import transformers.quantizers\nexcept ImportError: print(len(sys.meta_path))\n"
        "sys.ready = True\n"
        "import transformers.quantizers as q\n"
        "print(len(sys.meta_path), 'exec_module' in vars(q.__loader__))"
    )
    first, second, patched = python(code, tmp_path).split()
    assert int(first) - int(second) == 1 and patched == "False"


def test_a_pushed_model_loads_as_it_was(saved, tmp_path, monkeypatch):
    """Files to be uploaded to the hub can be loaded; only the upload is replaced."""
    from transformers.utils import hub

    class Hub:
        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def create_commit(self, operations, **_):
            for operation in operations:
                with operation.as_file() as content:
                    (tmp_path / "hub" / operation.path_in_repo).write_bytes(content.read())

    if not hasattr(hub, "hf_api"):
        pytest.skip("this transformers sends to the hub in another way, which the test can't replace")
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(hub, "hf_api", Hub)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: hub.ModelCard(""))
    model, _, _ = saved
    model.push_to_hub("me/small")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub")
    assert_same(model, loaded)
    ids = make_batch("bert")["input_ids"].clamp(max=VOCAB - 1)
    assert torch.equal(model(ids).logits, loaded(ids).logits)


def test_without_the_import_the_first_message_says_what_to_do(saved):
    code = "import sys, transformers; transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(saved[1])], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    first = next(line for line in done.stderr.splitlines() if "[transformers]" in line)
    assert "neuroprune (install and import neuroprune before loading)" in first


def test_a_record_without_the_remark_is_read_too(saved):
    model, folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "neuroprune"
    (folder / "config.json").write_text(json.dumps(config))
    assert_same(neuroprune.from_pretrained(folder), model)
    assert names_record("neuroprune") and not names_record("gptq") and not names_record(None)
