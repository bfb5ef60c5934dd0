"""Summarization and translation: reading of rows, generation, and metrics."""

import json

import numpy as np
import pytest
import sacrebleu
import torch
import yaml
from datasets import Dataset, Features, Translation, Value
from rouge_score.rouge_scorer import RougeScorer
from transformers import EvalPrediction

from helpers.data import ROOT, write_hub
from neuroprune import tasks
from neuroprune.config.settings import ModelSettings, TaskSettings
from neuroprune.errors import UserError
from neuroprune.models import sources
from neuroprune.tasks import summarization, translation

SHARED = ROOT.parent / "shared" / "data"
GERMAN = ["Das Gerät ist nicht bereit.", "Bitte später erneut versuchen!", "Die Küche ist warm.", "Tür zu"]
ENGLISH = ["The device is not ready.", "Please try again later!", "The kitchen is warm.", "Door shut"]
SIZES = {"d_model": 16, "vocab_size": 300}
BART = {
    f"{side}_{part}": size
    for side in ("encoder", "decoder")
    for part, size in (("attention_heads", 2), ("ffn_dim", 32))
}
WRITERS = {"t5": SIZES | {"num_heads": 2, "d_ff": 32, "d_kv": 8}, "bart": SIZES | BART, "marian": SIZES | BART}
NEWS = {"article": Value("string"), "highlights": Value("string"), "id": Value("string")}


def shipped(name, **changes):
    settings = yaml.safe_load((ROOT / "config" / "tasks" / f"{name}.yaml").read_text())
    return TaskSettings(name=name, **(settings | changes))


def own(source, **changes):
    values = {"kind": "translation", "inputs": ["de"], "label": "en", "metric": "bleu"}
    return TaskSettings(name="own", source=str(source), **(values | changes))


def pairs(count):
    return [{"de": GERMAN[i % 4], "en": ENGLISH[i % 4]} for i in range(count)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# ------------------------------------------------------------------ reading


def test_news_are_read_from_a_mirror_of_the_hub(tmp_path):
    rows = [{"article": f"Long story {i}.", "highlights": f"Story {i} .\nEnd .", "id": str(i)} for i in range(6)]
    write_hub(tmp_path / "abisee/cnn_dailymail", {"3.0.0": (Features(NEWS), {"train": rows, "validation": rows[:2]})})
    data = tasks.load(shipped("cnn_dailymail", train_rows=4), tmp_path)
    assert (len(data.train), len(data.eval), data.labels, data.majority) == (4, 2, (), None)
    assert data.eval[0] == {"article": "Long story 0.", "highlights": "Story 0 .\nEnd ."}
    assert set(data.texts()) == {text for row in data.train for text in row.values()}


@pytest.mark.parametrize("layout", ["default", "with a card"])
def test_translations_are_read_from_a_column_of_two_languages(tmp_path, layout):
    """`refs/convert/parquet` has the first layout, and no configuration to be named."""
    features = Features({"translation": Translation(languages=["de", "en"])})
    rows = [{"translation": pair} for pair in pairs(6)]
    folder = tmp_path / "bbaaaa/iwslt14-de-en"
    if layout == "with a card":
        write_hub(folder, {"de-en": (features, {"train": rows, "validation": rows[:2]})})
    for split, count in (("train", 6), ("validation", 2)) if layout == "default" else ():
        (folder / "default" / split).mkdir(parents=True)
        Dataset.from_list(rows[:count], features=features).to_parquet(folder / "default" / split / "0000.parquet")
    data = tasks.load(shipped("iwslt14_de_en"), tmp_path)
    assert (len(data.train), len(data.eval)) == (6, 2)
    assert data.eval[1] == {"de": GERMAN[1], "en": ENGLISH[1]}


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "nested.json"])
def test_a_folder_of_ones_own_is_a_task(tmp_path, suffix):
    for split, count in (("train", 5), ("validation", 2)):
        path = tmp_path / f"{split}.{suffix.removeprefix('nested.')}"
        if suffix == "nested.json":  # as transformers' translation example takes it
            path.write_text("\n".join(json.dumps({"translation": pair}) for pair in pairs(count)))
        else:
            getattr(Dataset.from_list(pairs(count)), f"to_{suffix}")(path)
    data = tasks.load(own(tmp_path), tmp_path / "nowhere")
    assert [data.train[3], data.eval[1]] == [pairs(4)[3], pairs(2)[1]]
    assert len(data.train) == 5


def test_empty_answers_are_refused(tmp_path):
    rows = [*pairs(2), {"de": "Nichts", "en": " "}, {"de": "Nichts", "en": None}]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"task own, split train of .*: 2 rows of column 'en' have no text"):
        tasks.load(own(tmp_path), tmp_path)


def test_the_manifest_names_rows_and_no_classes(tmp_path):
    for split in ("train", "validation"):
        Dataset.from_list(pairs(4)).to_json(tmp_path / f"{split}.json")
    manifest = tasks.prepare(own(tmp_path), tmp_path)
    assert (manifest["labels"], manifest["majority"]) == ([], None)
    assert 0 < manifest["copied"] < 0.1
    assert manifest["splits"] == {"train": 4, "validation": 4}
    assert manifest["sha256"] == tasks.load(own(tmp_path), tmp_path).sha256
    assert manifest["sha256"] != tasks.load(own(tmp_path, train_rows=3), tmp_path).sha256


# ------------------------------------------------------------------ metrics

WRITTEN = ["the cat sat on the mat . it purred .", "Dogs run fast", "nothing alike", ""]
TRUTH = ["The cat sat on a mat. It purred loudly.", "dogs ran fast", "something else", "a word"]


def test_rouge_is_rouge_score_s_mean_f1():
    found = summarization.judge(WRITTEN, TRUTH)
    assert set(found) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(truth, written) for truth, written in zip(TRUTH, WRITTEN, strict=True)]
    for kind in ("rouge1", "rouge2", "rougeL"):
        assert found[kind] == pytest.approx(np.mean([row[kind].fmeasure for row in rows]))


def test_someone_who_copies_the_source_has_its_bleu(tmp_path):
    rows = [{"de": "a b c d x", "en": "a b c d e"}, {"de": "v w x y q", "en": "v w x y z"}]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.json")
    copied = tasks.load(own(tmp_path, prefix="translate: "), tmp_path).copied
    assert copied == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))


def test_someone_who_copies_a_text_s_beginning_writes_as_much_as_summaries_have_on_average(tmp_path):
    assert summarization.lead(["a b\nc d", "e"], ["x", "x y z", "x y z"]) == ["a b", "e"]
    train = [{"text": "x", "short": "one two"}, {"text": "y", "short": "one two three four"}]
    judged = [
        {"text": "the cat sat quietly", "short": "The cat sat."},
        {"text": "dogs run very fast", "short": "dogs bark"},
    ]
    for split, rows in (("train", train), ("validation", judged)):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.json")
    data = tasks.load(own(tmp_path, kind="summarization", inputs=["text"], label="short", metric="rouge1"), tmp_path)
    assert data.copied == pytest.approx((1 + 2 * (1 / 3 * 1 / 2) / (1 / 3 + 1 / 2)) / 2)  # dogs run very | dogs bark


def test_rouge_by_hand():
    # stemmed words: the cat sat | the cat sat quiet -> 3 of 3 and of 4; pairs 2 of 2 and of 3
    found = summarization.judge(["The cats sat"], ["the cat sat quietly"])
    assert found == pytest.approx({"rouge1": 6 / 7, "rouge2": 4 / 5, "rougeL": 6 / 7, "rougeLsum": 6 / 7})
    # sentences in another order: rouge-L keeps the longer of the two in order, rouge-Lsum both
    swapped = summarization.judge(["b c d. a e."], ["a e. b c d."])
    assert (swapped["rougeL"], swapped["rougeLsum"]) == pytest.approx((3 / 5, 1.0))


def test_line_breaks_of_a_reference_count_as_ends_of_sentences():
    swapped = summarization.judge(["b c d . a e"], ["a e\nb c d"])
    assert swapped["rougeLsum"] == pytest.approx(1.0)


def test_bleu_is_sacrebleu_s():
    written = ["The device is not ready .", "Please try later again!", "The kitchen is warm.", "shut the door"]
    found = translation.judge(written, ENGLISH)
    reference = sacrebleu.corpus_bleu(written, [ENGLISH])
    assert found == {"bleu": pytest.approx(reference.score / 100), "brevity_penalty": pytest.approx(reference.bp)}
    assert 0 < found["bleu"] < 1
    assert translation.judge(ENGLISH, ENGLISH)["bleu"] == pytest.approx(1.0)


def test_bleu_by_hand():
    # "the cat sat on the": 1-grams 5/5, 2-grams 4/4, 3-grams 3/3, 4-grams 2/2; one word of six is missing: e^(1-6/5)
    found = translation.judge(["the cat sat on the"], ["the cat sat on the mat"])
    assert found == pytest.approx({"bleu": np.exp(-0.2), "brevity_penalty": np.exp(-0.2)})


# ------------------------------------------------------------------ what the model reads and writes


def loaded(tmp_path, kind="t5", **changes):
    """A small task of four rows, its objective for a tiny model of a type, and the model."""
    for split in ("train", "validation"):
        Dataset.from_list(pairs(4)).to_json(tmp_path / f"{split}.json")
    data = tasks.load(own(tmp_path, **changes), tmp_path)
    row = ModelSettings(name="tiny", source=f"random:{kind}", config=WRITERS[kind], layers=2)
    model, tokenizer = sources.load(row, data, seed=0)
    return data, data.objective(model, tokenizer), model.eval()


def test_the_search_and_the_smoothing_are_the_task_s(tmp_path):
    _, objective, _ = loaded(tmp_path, answer_length=9, beams=3, label_smoothing=0.1)
    assert objective.arguments == {
        "predict_with_generate": True,
        "generation_max_length": 10,  # with the decoder's first token, which is none of the answer's
        "generation_num_beams": 3,
        "label_smoothing_factor": 0.1,
    }


def test_rows_are_encoded_with_prefix_and_cut_to_length(tmp_path):
    data, objective, _ = loaded(tmp_path, prefix="to en: ", max_length=13, answer_length=3)
    rows, tokenizer = objective.encode(data.train), objective.tokenizer
    assert rows.column_names == ["input_ids", "attention_mask", "labels"]
    assert {len(ids) for ids in rows["input_ids"]} == {13} and {len(ids) for ids in rows["labels"]} == {3}
    assert tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True).startswith(" to en: Das")
    assert rows[0]["labels"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", WRITERS)
def test_padding_changes_nothing_on_either_side(tmp_path, kind):
    data, objective, model = loaded(tmp_path, kind)
    rows = list(objective.encode(data.train))
    batch = objective.collate(rows)
    assert batch["decoder_attention_mask"].sum(1).tolist() == [len(row["labels"]) for row in rows]
    assert batch["decoder_input_ids"].shape == batch["labels"].shape == batch["decoder_attention_mask"].shape
    with torch.inference_mode():
        whole, alone = (model(**objective.collate(part)).logits for part in (rows, rows[3:]))
    assert torch.allclose(whole[3, : alone.shape[1]], alone[0], atol=1e-4)


def test_answers_are_judged_by_the_whole_references(tmp_path):
    _, objective, _ = loaded(tmp_path, answer_length=2)  # the labels lack most of the text
    tokens = [[0, *objective.tokenizer(text_target=text)["input_ids"]] for text in ENGLISH]
    longest = max(map(len, tokens))
    padded = np.array([row + [-100] * (longest - len(row)) for row in tokens])
    assert objective.compute_metrics(EvalPrediction(padded, None))["bleu"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", WRITERS)
def test_timed_answers_have_the_length_of_the_longest_reference(tmp_path, kind):
    data, objective, model = loaded(tmp_path, kind, beams=2)
    rows = list(objective.encode(data.eval))
    question = objective.question(rows)
    assert set(question) == {"input_ids", "attention_mask", "new_tokens"}
    assert question["new_tokens"] == max(len(row["labels"]) for row in rows)
    with torch.inference_mode():
        written = objective.answer(model, **question)
    assert written.shape == (4, 1 + question["new_tokens"])


# ------------------------------------------------------------------ the mirror beside the repository, where it is


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no mirror of the hub beside the repository")
@pytest.mark.parametrize("name", ["cnn_dailymail", "iwslt14_de_en"])
def test_a_real_mirror_is_read(name):
    """Its rows are stand-ins: papers' abstracts for news, captions of pictures for talks."""
    manifest = tasks.prepare(shipped(name), SHARED)
    expected = {"cnn_dailymail": (1992, 619), "iwslt14_de_en": (29000, 1014)}
    assert tuple(manifest["splits"].values()) == expected[name]
