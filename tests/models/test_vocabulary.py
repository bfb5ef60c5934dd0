"""A trimmed model has the same outputs on its texts with fewer parameters."""

import copy

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import neuroprune
from helpers.data import WORDS, sentence, write_glue
from neuroprune import tasks
from neuroprune.config.settings import ModelSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.models.sources import train_tokenizer
from neuroprune.models.vocabulary import trim_vocabulary

TEXTS = [sentence(7 * i) for i in range(20)]
MORE = [*TEXTS, *(" ".join(word[::-1] * 2 for word in WORDS[i:]) for i in range(10))]  # what the tokenizer was made of
GLUE_TASK = {"name": "sst2", "source": "nyu-mll/glue", "config": "sst2", "inputs": ["sentence"]}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece():
    return train_tokenizer(MORE, 140)


def bytes_bpe():
    """In the form of RoBERTa's."""
    made = Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(MORE, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return fast(made)


def unigram():
    """In the form of XLM-R's."""
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(MORE, trainer)
    template = {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"}
    made.post_processor = processors.TemplateProcessing(**template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return fast(made)


def fast(made):
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{name}_token": text for name, text in names.items()})


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
LLAMA = SMALL | {"num_key_value_heads": 2}
CASES = {
    "BertForSequenceClassification": ("bert", "BertForSequenceClassification", wordpiece, SMALL),
    "BertForMaskedLM": ("bert", "BertForMaskedLM", wordpiece, SMALL),
    "RobertaForSequenceClassification": ("roberta", "RobertaForSequenceClassification", bytes_bpe, SMALL),
    "XLMRobertaForMaskedLM": ("xlm-roberta", "XLMRobertaForMaskedLM", unigram, SMALL),
    "BartForConditionalGeneration": ("bart", "BartForConditionalGeneration", bytes_bpe, BART),
    "T5ForConditionalGeneration": ("t5", "T5ForConditionalGeneration", unigram, T5),
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM", bytes_bpe, LLAMA),
    "GPT2LMHeadModel": ("gpt2", "GPT2LMHeadModel", bytes_bpe, {"n_embd": 16, "n_layer": 1, "n_head": 2}),
}


def case(name):
    kind, class_name, make, sizes = CASES[name]
    tokenizer = make()
    ids = {key: getattr(tokenizer, key) for key in ("pad_token_id", "eos_token_id", "bos_token_id")}
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **sizes)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model, tokenizer


def logits(model, tokenizer, texts=TEXTS):
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    batch.pop("token_type_ids", None)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        return model(**batch).logits, batch["input_ids"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_whole_vocabulary(name, tmp_path):
    model, tokenizer = case(name)
    before, ids = logits(model, tokenizer)
    size = model.num_parameters()
    trimmed = trim_vocabulary(model, tokenizer, TEXTS)
    after, new_ids = logits(model, trimmed)
    tokens = tokenizer.convert_ids_to_tokens(ids.flatten())
    assert trimmed.convert_ids_to_tokens(new_ids.flatten()) == tokens
    kept = [tokenizer.convert_tokens_to_ids(token) for token in trimmed.convert_ids_to_tokens(range(len(trimmed)))]
    assert kept == sorted(kept) and len(kept) < len(tokenizer)
    wanted = before[..., kept] if before.shape[-1] == len(tokenizer) else before
    torch.testing.assert_close(after, wanted, atol=1e-6, rtol=0)
    assert model.config.vocab_size == len(trimmed) and model.num_parameters() < size
    assert model.config.pad_token_id == trimmed.pad_token_id
    model.save_pretrained(tmp_path)
    trimmed.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert logits(again.eval(), AutoTokenizer.from_pretrained(tmp_path))[0].equal(after)


def test_tokens_in_the_settings_of_generation_are_kept_or_dropped_and_renumbered():
    model, tokenizer = case("BartForConditionalGeneration")
    used = {token for text in TEXTS for token in tokenizer(text)["input_ids"]}
    kept, also = sorted(used)[-2:]
    gone, language = sorted(token for token in range(300, len(tokenizer)) if token not in used)[-2:]
    settings = model.generation_config
    settings.forced_bos_token_id, settings.eos_token_id = language, [2, kept]
    settings.suppress_tokens, settings.begin_suppress_tokens = [kept, gone], [gone]
    settings.bad_words_ids = [[kept, also], [kept, gone], [gone]]
    settings.sequence_bias = {(also,): -1.0, (gone, also): 2.0}
    trimmed = trim_vocabulary(model, tokenizer, TEXTS)
    name = tokenizer.convert_ids_to_tokens
    first, second, tongue, end = trimmed.convert_tokens_to_ids(name([kept, also, language, 2]))
    assert name(gone) not in trimmed.get_vocab()
    assert (settings.forced_bos_token_id, settings.eos_token_id) == (tongue, [end, first])
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([first], None)
    assert (settings.bad_words_ids, settings.sequence_bias) == ([[first, second]], {(second,): -1.0})
    settings.sequence_bias, settings.bad_words_ids = [[[second], -1.0]], [[first, 10**6]]  # as read from a file
    again = trim_vocabulary(model, trimmed, TEXTS)
    assert settings.bad_words_ids is None
    assert settings.sequence_bias == {(again.convert_tokens_to_ids(name(also)),): -1.0}
    model.generate(**again(TEXTS[:1], return_tensors="pt"), max_new_tokens=3)


@pytest.mark.parametrize("make", [wordpiece, bytes_bpe, unigram])
def test_pairs_and_decoding_are_those_of_the_whole_tokenizer(make):
    whole = make()
    model = transformers.BertModel(
        transformers.BertConfig(**SMALL, vocab_size=len(whole), pad_token_id=whole.pad_token_id)
    )
    small = trim_vocabulary(model, whole, TEXTS)
    one, two = whole(TEXTS[0], TEXTS[1])["input_ids"], small(TEXTS[0], TEXTS[1])["input_ids"]
    assert whole.convert_ids_to_tokens(one) == small.convert_ids_to_tokens(two)
    assert whole.decode(one, skip_special_tokens=True) == small.decode(two, skip_special_tokens=True)
    assert whole.all_special_tokens == small.all_special_tokens


@pytest.mark.parametrize("make", [wordpiece, bytes_bpe])
def test_new_words_are_spelled_out(make):
    whole = make()
    model = transformers.BertModel(
        transformers.BertConfig(**SMALL, vocab_size=len(whole), pad_token_id=whole.pad_token_id)
    )
    small = trim_vocabulary(model, whole, TEXTS[:1])
    assert small.unk_token_id not in small("story mraw")["input_ids"]


def test_a_model_that_was_cut_is_trimmed_and_pruned_further(tmp_path):
    model, tokenizer = case("BertForSequenceClassification")
    neuroprune.remove(model, {0: [0]})
    before = neuroprune.measure_sparsity(model)
    trimmed = neuroprune.trim_vocabulary(model, tokenizer, TEXTS)
    after = neuroprune.measure_sparsity(model)
    assert after.weights == before.weights and after.parameters < before.parameters
    neuroprune.remove(model, {1: [1]})
    neuroprune.save_pretrained(model, tmp_path, trimmed)
    assert logits(neuroprune.from_pretrained(tmp_path), trimmed)[0].equal(logits(model, trimmed)[0])


def test_a_tokenizer_of_another_model_is_refused_and_nothing_changes():
    model, _ = case("BertForSequenceClassification")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"has embeddings for .* tokens and the tokenizer has"):
        trim_vocabulary(model, bytes_bpe(), TEXTS)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a warm film", "texts is a single text; give a list of all texts of the training data"),
        ({"text": TEXTS}, "texts is a mapping; give a list of all texts"),
        ([*TEXTS, None], r"texts\[20\] is no text but of the type NoneType; give texts only"),
        ([("a", "b")], r"texts\[0\] is no text but of the type tuple"),
    ],
)
def test_anything_but_a_collection_of_texts_is_refused_and_nothing_changes(texts, message):
    model, tokenizer = case("BertForSequenceClassification")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=f"^trim_vocabulary: {message}"):
        trim_vocabulary(model, tokenizer, texts)
    assert model.state_dict().keys() == before.keys()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_vocabularies_of_their_own_are_refused():
    model, tokenizer = case("BartForConditionalGeneration")
    model.config.decoder_vocab_size = 7
    with pytest.raises(UserError, match="separate vocabularies"):
        trim_vocabulary(model, tokenizer, TEXTS)


def test_slow_tokenizers_are_refused():
    model, _ = case("BertForSequenceClassification")
    with pytest.raises(UserError, match="object is not a fast tokenizer"):
        trim_vocabulary(model, object(), TEXTS)


def test_a_tokenizer_of_unknown_form_is_refused(monkeypatch):
    model, tokenizer = case("BertForSequenceClassification")
    description = '{"model": {"type": "Odd"}, "added_tokens": []}'
    monkeypatch.setattr(
        type(tokenizer), "backend_tokenizer", type("Backend", (), {"to_str": lambda self: description})()
    )
    with pytest.raises(UserError, match="of the form Odd is not supported"):
        trim_vocabulary(model, tokenizer, TEXTS)


def test_the_base_model_alone_is_trimmed():
    model, tokenizer = case("BertForMaskedLM")
    body = AutoModel.from_config(model.config)
    assert len(trim_vocabulary(body, tokenizer, TEXTS)) == body.embeddings.word_embeddings.num_embeddings


def test_a_study_trims_only_where_no_words_are_written_around_the_rows(tmp_path):
    data = tasks.load(TaskSettings(**GLUE_TASK), write_glue(tmp_path, "sst2", train=60))
    rows = {"name": "tiny", "source": "random:bert", "config": SMALL}
    whole, _ = sources.load(ModelSettings(**rows), data, seed=0)
    model, tokenizer = sources.load(ModelSettings(**rows, trim_vocabulary=True), data, seed=0)
    assert model.config.vocab_size == len(tokenizer) < whole.config.vocab_size
    assert tokenizer.unk_token_id not in {id for text in data.texts() for id in tokenizer(text)["input_ids"]}
    with pytest.raises(UserError, match="model tiny: trim_vocabulary is for tasks with classes or numbers"):
        sources.load(ModelSettings(name="tiny", source="random:t5", config=T5, trim_vocabulary=True), data, seed=0)


def test_settings_without_it_are_what_they_were():
    assert "trim_vocabulary" not in ModelSettings(name="a", source="random:bert").model_dump()
    assert ModelSettings(name="a", source="random:bert", trim_vocabulary=True).model_dump()["trim_vocabulary"] is True
