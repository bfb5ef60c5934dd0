"""ONNX export: onnxruntime reproduces the model's outputs for any batch size and length."""

import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
import transformers
from test_export_full import cut_model, export
from test_pretrained import tokenizer  # noqa: F401  (a fixture)
from test_surgery import uneven_cut

from helpers.models import ROWS, WIDTH, logits, make_batch, make_model
from neuroprune.models.export import onnx
from neuroprune.models.pretrained import save_pretrained
from neuroprune.pruning.surgery import remove

onnx_only = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="ONNX export needs optional packages: pip install onnx onnxscript onnxruntime",
)
# One model per kind of construction; the tests of the full-size export cover the rest of each family.
ONNX_ROWS = ["bert", "distilbert", "t5", "marian", "opt", "gpt2", "qwen3"]


@onnx_only
@pytest.mark.parametrize("name", ONNX_ROWS)
def test_plain_onnxruntime_gives_the_same_outputs(name, tmp_path):
    import onnxruntime

    model = cut_model(name)
    save_pretrained(model, tmp_path / "small")
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["logits"]
    for rows, length in ((1, 6), (3, 7), (5, 13)):
        batch = make_batch(name, rows=rows, length=length, seed=rows)
        if "token_type_ids" in {node.name for node in session.get_inputs()}:
            batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
        found = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in batch.items()})[0])
        keep = batch["attention_mask"].bool()
        found = found[keep] if found.shape[:2] == keep.shape else found
        torch.testing.assert_close(found, logits(model, batch), atol=1e-4, rtol=0)


@onnx_only
@pytest.mark.parametrize("name", ["bert", "t5", "gpt2", "qwen3"])
def test_attentions_and_mlps_that_are_empty_are_left_out(name, tmp_path):
    import onnx as format
    import onnxruntime

    model, row = make_model(name), ROWS[name]
    remove(model, {0: range(row.heads), 1: [0] if row.groups == 1 else [0, 1]}, {row.mlps - 1: range(WIDTH)})
    save_pretrained(model, tmp_path / "small")
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 0
    session, batch = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx")), make_batch(name)
    if "token_type_ids" in {node.name for node in session.get_inputs()}:
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    found = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in batch.items()})[0])
    keep = batch["attention_mask"].bool()
    found = found[keep] if found.shape[:2] == keep.shape else found
    torch.testing.assert_close(found, logits(model, batch), atol=1e-4, rtol=0)
    stored = format.load(str(tmp_path / "onnx" / "model.onnx")).graph.initializer
    assert all(tensor.dims and min(tensor.dims) > 0 for tensor in stored if len(tensor.dims) == 2)


@onnx_only
@pytest.mark.parametrize("name", ["bert", "bart"])
def test_all_logits_are_exported_under_their_names(name, tmp_path, capsys):
    """The start of an answer is useless without its end."""
    import onnxruntime

    model_class = getattr(transformers, f"{ROWS[name].config.removesuffix('Config')}ForQuestionAnswering")
    model = model_class(make_model(name).config).eval()
    remove(model, *uneven_cut(name))
    save_pretrained(model, tmp_path / "small")
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 0, capsys.readouterr().err
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["start_logits", "end_logits"]
    inputs = onnx.example(model, rows=3, length=9)
    assert "decoder_input_ids" not in inputs
    found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    with torch.no_grad():
        expected = model(**inputs)
    for output, name_ in zip(found, ("start_logits", "end_logits"), strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected[name_], atol=1e-4, rtol=0)


@onnx_only
def test_a_wrong_second_output_is_seen(tmp_path):
    model = transformers.BertForQuestionAnswering(make_model("bert").config).eval()
    onnx.write_onnx(model, tmp_path / "model.onnx")
    assert onnx.largest_difference(model, tmp_path / "model.onnx") <= onnx.TOLERANCE
    model.qa_outputs.bias.data[1] += 1  # of the end alone
    assert onnx.largest_difference(model, tmp_path / "model.onnx") > 0.1


@onnx_only
def test_the_onnx_folder_has_what_is_needed_to_use_it(tmp_path, tokenizer, capsys):  # noqa: F811
    save_pretrained(cut_model("bert", id2label={0: "no", 1: "yes"}), tmp_path / "small", tokenizer)
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 0
    assert "inputs input_ids, attention_mask, token_type_ids; outputs differ" in capsys.readouterr().out
    files = {file.name for file in (tmp_path / "onnx").iterdir()}
    assert {"README.md", "config.json", "model.onnx", "tokenizer_config.json"} <= files
    code = (
        "import sys, json, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1] + '/model.onnx')\n"
        "print(json.load(open(sys.argv[1] + '/config.json'))['id2label'], [i.name for i in session.get_inputs()])\n"
        "assert not {'torch', 'transformers', 'neuroprune'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "onnx")]
    assert "'no'" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    line = (tmp_path / "onnx" / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    exec(line.replace("path/to/this/folder", str(tmp_path / "onnx")), {})


@onnx_only
def test_operators_are_fused_where_the_fused_file_gives_the_same_outputs(tmp_path):
    """GPT-2's fused file is one that onnxruntime cannot run."""
    import onnx as onnx_package

    fused = {}
    for name in ("bert", "gpt2"):
        save_pretrained(cut_model(name), tmp_path / name)
        assert export(tmp_path / name, "onnx", tmp_path / f"{name}-onnx") == 0
        graph = onnx_package.load(tmp_path / f"{name}-onnx" / "model.onnx").graph
        fused[name] = sum(node.op_type in {"Attention", "MultiHeadAttention"} for node in graph.node)
    assert fused == {"bert": 2, "gpt2": 0}


@onnx_only
@pytest.mark.parametrize("name", ["bert", "marian", "opt", "qwen3"])
def test_an_8_bit_file_is_written_beside_the_other(name, tmp_path, capsys):
    sizes = {"hidden_size": 64, "intermediate_size": 256} if name == "bert" else {}
    model = cut_model(name, **sizes)
    save_pretrained(model, tmp_path / "small")
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx", "--int8") == 0
    assert "8-bit weights" in capsys.readouterr().out
    files = [tmp_path / "onnx" / name for name in ("model.int8.onnx", "model.onnx")]
    assert files[0].stat().st_size < files[1].stat().st_size
    assert onnx.TOLERANCE < onnx.largest_difference(model, files[0]) < 1
    assert onnx.largest_difference(model, files[1]) <= onnx.TOLERANCE


@onnx_only
def test_a_file_that_does_not_run_differs_without_bound(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no file")
    assert onnx.largest_difference(make_model("bert"), tmp_path / "model.onnx") == float("inf")


def test_only_onnx_has_an_8_bit_file(tmp_path, capsys):
    assert export(tmp_path / "small", "full", tmp_path / "out", "--int8") == 1
    assert "only onnx" in capsys.readouterr().err


@onnx_only
def test_it_is_faster_than_the_dense_models_file(tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sizes = {"num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 1024, "max_position_embeddings": 64}
    dense, cut = (make_model("bert", **sizes) for _ in range(2))
    remove(cut, {0: [0, 1, 2]}, {0: range(820)})
    sessions = []
    for name, model in (("dense", dense), ("cut", cut)):
        onnx.write_onnx(model, tmp_path / f"{name}.onnx")
        sessions.append(onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), options))
    batch = {key: value.numpy() for key, value in onnx.example(dense, rows=8, length=64).items()}
    times: list[list[float]] = [[], []]
    for _ in range(9):
        for session, taken in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(None, batch)
            taken.append(time.perf_counter() - started)
    assert min(times[1]) < 0.7 * min(times[0])


@onnx_only
def test_a_file_with_other_outputs_is_not_written(tmp_path, monkeypatch, capsys):
    save_pretrained(cut_model("bert"), tmp_path / "small")
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 1
    assert "outputs of the ONNX file differ" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


@onnx_only
def test_models_for_multiple_choice_are_refused_by_class(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "_write_fused", lambda *_: pytest.fail("it was traced"))
    save_pretrained(transformers.BertForMultipleChoice(make_model("bert").config), tmp_path / "small")
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("BertForMultipleChoice can't be exported to ONNX: each of its rows has several texts")
    assert not (tmp_path / "onnx").exists()


def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    (tmp_path / "small").mkdir()
    assert export(tmp_path / "small", "onnx", tmp_path / "onnx") == 1
    assert capsys.readouterr().err.strip().endswith("pip install onnx onnxscript onnxruntime.")
