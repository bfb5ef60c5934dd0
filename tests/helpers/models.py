"""Tiny random models, one row per architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from neuroprune.pruning.blocks import Attention

VOCAB = 99
HEAD_DIM = 4
WIDTH = 24


@dataclass(frozen=True)
class Row:
    """Recipe of a tiny model (config class, its values, model class) and the expected result of find_blocks."""

    config: str
    values: dict[str, Any]
    model: str
    attentions: int
    mlps: int
    heads: int = 4
    groups: int = 1
    seq2seq: bool = False
    generates: bool = False
    bias: bool = True


_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
_T5 = {
    "d_model": 16,
    "d_kv": HEAD_DIM,
    "num_heads": 4,
    "d_ff": WIDTH,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "eos_token_id": None,
}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": WIDTH,
    "decoder_ffn_dim": WIDTH,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": HEAD_DIM,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": WIDTH,
    "n_positions": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_OPT = {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": WIDTH,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GEMMA = {**_LLAMA, "query_pre_attn_scalar": HEAD_DIM, "sliding_window": 4}
_MODERNBERT = {**_BERT, "global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2}
_DEBERTA = {
    **_BERT,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": WIDTH, "max_position_embeddings": 40}

ROWS = {
    "bert": Row("BertConfig", _BERT, "BertForSequenceClassification", 2, 2),
    "bert-decoder": Row(
        "BertConfig",
        {**_BERT, "is_decoder": True, "add_cross_attention": True},
        "BertLMHeadModel",
        4,
        2,
    ),
    "roberta": Row("RobertaConfig", _BERT, "RobertaForSequenceClassification", 2, 2),
    "electra": Row("ElectraConfig", {**_BERT, "embedding_size": 8}, "ElectraForSequenceClassification", 2, 2),
    "distilbert": Row("DistilBertConfig", _DISTILBERT, "DistilBertForSequenceClassification", 2, 2),
    "t5": Row(
        "T5Config",
        {**_T5, "feed_forward_proj": "relu"},
        "T5ForConditionalGeneration",
        6,
        4,
        seq2seq=True,
        generates=True,
        bias=False,
    ),
    "t5-gated": Row(
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu"},
        "T5ForConditionalGeneration",
        6,
        4,
        seq2seq=True,
        generates=True,
        bias=False,
    ),
    "bart": Row("BartConfig", _BART, "BartForConditionalGeneration", 6, 4, seq2seq=True, generates=True),
    "marian": Row("MarianConfig", _BART, "MarianMTModel", 6, 4, seq2seq=True, generates=True),
    "opt": Row("OPTConfig", _OPT, "OPTForCausalLM", 2, 2, generates=True),
    "gpt2": Row("GPT2Config", _GPT2, "GPT2LMHeadModel", 2, 2, generates=True),
    "llama": Row("LlamaConfig", _LLAMA, "LlamaForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "qwen3": Row("Qwen3Config", _LLAMA, "Qwen3ForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "qwen2": Row("Qwen2Config", _LLAMA, "Qwen2ForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "mistral": Row("MistralConfig", _LLAMA, "MistralForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "gemma2": Row("Gemma2Config", _GEMMA, "Gemma2ForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "gemma3": Row("Gemma3TextConfig", _GEMMA, "Gemma3ForCausalLM", 2, 2, 8, 2, generates=True, bias=False),
    "modernbert": Row("ModernBertConfig", _MODERNBERT, "ModernBertForSequenceClassification", 2, 2, bias=False),
    "deberta-v3": Row("DebertaV2Config", _DEBERTA, "DebertaV2ForSequenceClassification", 2, 2),
    "xlm-roberta": Row("XLMRobertaConfig", _BERT, "XLMRobertaForSequenceClassification", 2, 2),
    "mpnet": Row("MPNetConfig", _BERT, "MPNetForSequenceClassification", 2, 2),
    "mbart": Row("MBartConfig", _BART, "MBartForConditionalGeneration", 6, 4, seq2seq=True, generates=True),
    "pegasus": Row("PegasusConfig", _BART, "PegasusForConditionalGeneration", 6, 4, seq2seq=True, generates=True),
}
NAMES = list(ROWS)
each_model = pytest.mark.parametrize("name", NAMES)


def make_model(name: str = "bert", attention: str = "sdpa", seed: int = 0, **changes: Any) -> nn.Module:
    """Return the row's model in eval mode: random weights and biases, none of them zero."""
    row = ROWS[name]
    config = getattr(transformers, row.config)(vocab_size=VOCAB, **{**row.values, **changes})
    model_class = getattr(transformers, row.model)
    config._attn_implementation = attention if model_class._supports_sdpa else "eager"
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # Marian's positions are fixed, and not saved
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def make_batch(name: str = "bert", rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Return inputs of different lengths, padded (on the left for models that generate)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    left = ROWS[name].generates and not ROWS[name].seq2seq
    kept = torch.arange(length).expand(rows, length) < (length - torch.arange(rows)[:, None])
    mask = kept.flip(1) if left else kept
    batch = {"input_ids": ids * mask, "attention_mask": mask.long()}
    if ROWS[name].seq2seq:
        batch["decoder_input_ids"] = torch.randint(3, VOCAB, (rows, length - 2), generator=generator)
    if ROWS[name].model == "BertLMHeadModel":
        batch["encoder_hidden_states"] = torch.randn(rows, 5, 16, generator=generator)
    return batch


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the model's logits at the tokens that are not padding."""
    with torch.no_grad():
        out = model(**batch).logits
    keep = batch["attention_mask"].bool()
    return out[keep] if out.shape[:2] == keep.shape else out


def apply_to(model: nn.Module, change: Callable[[Tensor], None], *names: str) -> nn.Module:
    """Change the named parameters in place."""
    with torch.no_grad():
        for name in names:
            change(model.get_parameter(name))
    return model


def make_alike(attention: Attention, copy: int, of: int) -> None:
    """Copy Q, K and V, including biases, from one head (with its query heads) to another; O is not changed."""
    with torch.no_grad():
        for projection, groups in ((attention.q, attention.groups), (attention.k, 1), (attention.v, 1)):
            size = attention.head_dim * groups
            for tensor in (projection.weight, projection.bias):
                if tensor is not None:
                    tensor[copy * size : (copy + 1) * size] = tensor[of * size : (of + 1) * size]
