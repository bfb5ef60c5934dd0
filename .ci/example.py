"""Run the README's example as a stranger would: with the installed package, in a folder without the repository."""

import re
from pathlib import Path

import torch
import transformers

import neuroprune

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def rows(count: int = 24) -> list[dict[str, torch.Tensor]]:
    """Return rows of random tokens, labelled by the first one."""
    ids = torch.randint(5, len(WORDS), (count, 7), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 2} for row in ids]


def main() -> None:
    """Run the example's code, then load what it saved with plain transformers."""
    assert not Path("neuroprune").exists() and "site-packages" in neuroprune.__file__, neuroprune.__file__
    (code, *_) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    Path("vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    config = transformers.BertConfig(vocab_size=len(WORDS), **SIZES)
    names = {
        "model": transformers.BertForSequenceClassification(config),
        "args": transformers.TrainingArguments("out", report_to="none", save_strategy="no", use_cpu=True),
        "train_dataset": rows(),
        "tokenizer": transformers.BertTokenizer("vocab.txt"),
    }
    exec(compile(code, "README.md", "exec"), names)
    auto = transformers.AutoModelForSequenceClassification.from_pretrained("small")
    sparsity = neuroprune.measure_sparsity(auto).weights
    assert abs(sparsity - 0.8) < 1e-3, sparsity
    print(f"The README's example works with neuroprune in {neuroprune.__file__}: sparsity {sparsity:.3f}")


if __name__ == "__main__":
    main()
