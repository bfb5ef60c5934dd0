"""The code of the README and of docs/tutorials/loops.md runs unchanged and does what the text says."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from test_pretrained import tokenizer  # noqa: F401  (a fixture)
from torch.utils.data import DataLoader

from helpers.models import VOCAB, make_model
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOOPS = (ROOT / "docs" / "tutorials" / "loops.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README + LOOPS, flags=re.DOTALL)
COMMON = {"output_dir": "out", "num_train_epochs": 2, "per_device_train_batch_size": 4, "use_cpu": True}
COMMON |= {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}


def block(text):
    """Return the only block that contains a text."""
    (found,) = [code for code in BLOCKS if text in code]
    return found


def rows(count=24, labels=None):
    ids = torch.randint(5, VOCAB, (count, 7), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": labels or row[0] % 2} for row in ids]


def run(code, monkeypatch, folder, **names):
    """Run a block unchanged in a separate folder, with the names that it assumes."""
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_number_of_model_types_is_that_of_the_table():
    assert f"| {len(ARCHITECTURES)} types of transformers |" in README


def test_every_block_is_tested_here():
    assert len(BLOCKS) == 4


def test_the_trainer(monkeypatch, tmp_path, tokenizer):  # noqa: F811
    model, args = make_model("bert"), transformers.TrainingArguments(**COMMON)
    code = block("import Trainer\n")
    names = run(code, monkeypatch, tmp_path, model=model, args=args, train_dataset=rows(), tokenizer=tokenizer)
    loaded = names["model"]
    assert loaded is not model
    assert measure_sparsity(loaded).weights == pytest.approx(0.8, abs=1e-3)
    assert all(value.equal(loaded.state_dict()[name]) for name, value in model.state_dict().items())
    pipe = transformers.pipeline("text-classification", model="small", device="cpu")
    assert pipe("a b")[0]["label"] in {"LABEL_0", "LABEL_1"}
    auto = transformers.AutoModelForSequenceClassification.from_pretrained("small")
    assert measure_sparsity(auto) == measure_sparsity(loaded)


def test_the_seq2seq_trainer(monkeypatch, tmp_path, tokenizer):  # noqa: F811
    model, args = make_model("t5"), transformers.Seq2SeqTrainingArguments(**COMMON)
    data = rows(labels=[5, 6, 7])
    run(block("Seq2SeqTrainer"), monkeypatch, tmp_path, model=model, args=args, train_dataset=data, tokenizer=tokenizer)
    assert measure_sparsity(model).weights == pytest.approx(0.8, abs=1e-3)
    assert len({attention.heads for attention in find_blocks(model).attentions}) > 1  # other numbers in other layers
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3).shape[0] == 1


def test_the_plain_loop(monkeypatch, tmp_path):
    model, epochs = make_model("bert").train(), 2
    loader = DataLoader(rows(), batch_size=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, 0, len(loader) * epochs)
    given = {"model": model, "epochs": epochs, "loader": loader, "optimizer": optimizer, "scheduler": scheduler}
    run(block("method.start(run)"), monkeypatch, tmp_path, **given)
    assert measure_sparsity(model).weights == pytest.approx(0.8, abs=1e-3)


def test_the_embedding_model(monkeypatch, tmp_path, tokenizer):  # noqa: F811
    make_model("bert").bert.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    model = SentenceTransformer(str(tmp_path / "body"), device="cpu")
    pairs = Dataset.from_list([{"anchor": "a b c", "positive": "c b a", "label": 0.5 + (i % 2) / 2} for i in range(24)])
    names = {
        "model": model,
        "args": SentenceTransformerTrainingArguments(**COMMON),
        "loss": CosineSimilarityLoss(model),
    }
    loaded = run(block("SentenceTransformerTrainer\n"), monkeypatch, tmp_path, train_dataset=pairs, **names)["model"]
    assert loaded is not model
    assert measure_sparsity(loaded).weights == pytest.approx(0.8, abs=1e-3)
    assert loaded.encode("a b").tolist() == model.encode("a b").tolist()
