"""Classes of texts from a data set with columns of texts and labels: natural tasks for a language model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import datasets
import pydantic
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from hf_icl.banks.bank import Bank, Vocabulary, make_bank
from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.embeddings import Checkpoint, open_checkpoint
from hf_icl.banks.splits import choose_exemplars, split_classes
from hf_icl.banks.tokenizer import find_prefix, load_tokenizer, name_tokens, write_phrase
from hf_icl.config import MOST_CLASSES, MOST_EXEMPLARS
from hf_icl.errors import BankError, ConfigError
from hf_icl.philox import draw_words, stream_of

TEXT_STREAM = stream_of("bank/texts")
LOADERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
MOST_ROWS = 1_000_000


class TextConfig(BankConfigBase):
    """Classes of texts, each called by its name, as a language model reads them.

    >>> TextConfig(source="me/model", data="reviews.csv", label_texts=["foo", "bar"]).n_classes
    2
    """

    kind: Literal["texts"] = "texts"
    source: str = pydantic.Field(
        min_length=1, description="A checkpoint whose tokenizer reads them: a folder, or a name on the Hub."
    )
    revision: str | None = pydantic.Field(
        default=None, min_length=1, description="Branch, tag or commit on the Hub; null: main."
    )
    data: str = pydantic.Field(
        min_length=1, description="A .csv, .json, .jsonl or .parquet file, or a data set's name on the Hub."
    )
    subset: str | None = pydantic.Field(default=None, description="Configuration of the data set.")
    split: str = pydantic.Field(default="train", min_length=1, description="Split of the data set.")
    text: str = pydantic.Field(default="text", min_length=1, description="Column of the texts.")
    label: str = pydantic.Field(default="label", min_length=1, description="Column of the classes.")
    label_texts: tuple[str, ...] | None = pydantic.Field(
        default=None,
        description="What the training classes are called, in the order of their names, such as words that "
        "mean nothing here; null: by their names.",
    )
    n_classes: int = pydantic.Field(
        default=2, ge=1, le=MOST_CLASSES, description="Training classes, chosen by the seed."
    )
    n_holdout_classes: int = pydantic.Field(
        default=0, ge=0, le=MOST_CLASSES, description="Classes never trained on, chosen by the seed."
    )
    n_exemplars: int = pydantic.Field(
        default=20, ge=1, le=MOST_EXEMPLARS, description="Texts of each class, chosen by the seed."
    )
    most_characters: int = pydantic.Field(
        default=300, ge=1, le=100_000, description="Longer texts are left out."
    )

    @pydantic.model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.n_labels is not None or self.labels_per_class != 1:
            field = "n_labels" if self.n_labels is not None else "labels_per_class"
            rule = "a class of texts is called by one name of its own"
            raise ConfigError(field, getattr(self, field), rule, "Leave it out.")
        own = self.label_texts
        if own is not None and len({_clean(text) for text in own} - {""}) != self.n_classes:
            rule = f"each of the {self.n_classes} training classes needs a text, and all must differ"
            raise ConfigError("label_texts", own, rule, "Give as many as there are training classes.")
        return self

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Read and tokenise the texts, see `load_texts`."""
        return load_texts(self, seed=seed)


def load_texts(config: TextConfig, *, seed: int = 0) -> Bank:
    """Read a data set's texts and group them by their labels.

    The seed chooses classes and, of each class, texts. Spaces around texts and line breaks in them are made
    one space; empty ones, those longer than asked, and those that occur twice are left out.

    Returns:
        A bank of ids whose `Vocabulary` has phrases.

    Raises:
        BankError: If data set or tokenizer cannot be had, a column is missing, or there are too few texts.
    """
    checkpoint = open_checkpoint(config.source, config.revision)
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer is None:
        raise BankError(
            f"{config.source}: comes without a tokenizer, so that no text can be read. Save one there with "
            "the tokenizer's save_pretrained."
        )
    groups = _group(config)
    names = sorted(groups)
    chosen = split_classes(
        len(names), config.n_classes, config.n_holdout_classes, seed=seed, what=f"{config.data}: classes"
    )
    n_train = config.n_classes
    train = sorted(names[place] for place in chosen[:n_train].tolist())
    names = [*train, *(names[place] for place in chosen[n_train:].tolist())]
    fewest = min(names, key=lambda name: len(groups[name]))
    what = f"{config.data}, class {fewest!r}"
    choose_exemplars(len(groups[fewest]), config.n_exemplars, config.n_holdout_exemplars, what=what)
    texts = [_choose(groups[name], config.n_exemplars, seed, number) for number, name in enumerate(names)]
    labels = list(config.label_texts or train)
    phrases = [write_phrase(tokenizer, text) for row in texts for text in row]
    label_phrases = [write_phrase(tokenizer, _clean(text)) for text in labels]
    _check_phrases(config, labels, label_phrases)
    vocabulary = _make_vocabulary(checkpoint, tokenizer, phrases, label_phrases)
    rows = torch.arange(len(phrases)).view(len(names), -1)
    bank = make_bank(
        "texts", None, rows, seed=seed, class_names=names, vocabulary=vocabulary, **config.layout
    )
    data = Path(config.data).name if Path(config.data).expanduser().exists() else config.data
    facts = {"data": data, "tokens": _describe_lengths(phrases)}
    return dataclasses.replace(bank, facts=facts, exemplar_names=texts)


def _group(config: TextConfig) -> dict[str, list[str]]:
    """Return the texts that can be used, by the name of their class."""
    dataset = _open(config)
    for field in ("text", "label"):
        column = getattr(config, field)
        if column not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise BankError(f"{config.data}: has no column {column!r}; there are {there}. Set {field}.")
    if len(dataset) > MOST_ROWS:
        raise BankError(
            f"{config.data}: has {len(dataset):,} rows, more than {MOST_ROWS:,}. Name a part: "
            f"split={config.split}[:10000]"
        )
    feature = dataset.features[config.label]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    groups: dict[str, dict[str, None]] = {}
    for text, label in zip(dataset[config.text], dataset[config.label], strict=True):
        if not isinstance(text, str) or label is None or (names and label < 0):
            continue
        text = _clean(text)
        name = names[label] if names else _clean(str(label))
        if text and name and len(text) <= config.most_characters:
            groups.setdefault(name, {})[text] = None
    return {name: list(texts) for name, texts in groups.items()}


def _open(config: TextConfig) -> datasets.Dataset:
    path = Path(config.data).expanduser()
    try:
        if path.suffix in LOADERS:
            if not path.is_file():
                raise BankError(f"{config.data}: there is no such file. Check data.")
            return datasets.load_dataset(LOADERS[path.suffix], data_files=str(path), split=config.split)
        return datasets.load_dataset(config.data, config.subset, split=config.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise BankError(f"{config.data}: cannot be loaded ({said}). Check data, subset and split.") from error


def _clean(text: str) -> str:
    return " ".join(text.split())


def _choose(texts: Sequence[str], n_texts: int, seed: int, number: int) -> list[str]:
    """Return some of a class's texts, in an order of the seed's."""
    words = draw_words(torch.arange(len(texts)), 2, seed=seed, stream=TEXT_STREAM + number)
    order = torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)
    return [texts[place] for place in order[:n_texts].tolist()]


def _check_phrases(config: TextConfig, labels: Sequence[str], phrases: Sequence[tuple[int, ...]]) -> None:
    """Raise unless every label is told from every other by its tokens."""
    for text, phrase in zip(labels, phrases, strict=True):
        if not phrase or phrases.count(phrase) > 1:
            raise BankError(
                f"{config.data}: to the tokenizer of {config.source} the label {text!r} is nothing, or "
                "another's text too. Name the classes with label_texts."
            )


def _make_vocabulary(
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    exemplars: Sequence[tuple[int, ...]],
    labels: Sequence[tuple[int, ...]],
) -> Vocabulary:
    prefix = find_prefix(tokenizer)
    shown = {token for phrase in [*exemplars, *labels] for token in phrase} | set(prefix)
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False).get_text_config()
    return Vocabulary(
        torch.tensor([phrase[0] for phrase in labels]),
        max(getattr(config, "vocab_size", 0), max(shown) + 1),
        prefix,
        name_tokens(tokenizer, sorted(shown)),
        functools.partial(load_tokenizer, checkpoint),
        tuple(exemplars),
        tuple(labels),
    )


def _describe_lengths(phrases: Iterable[tuple[int, ...]]) -> dict[str, Any]:
    lengths = [len(phrase) for phrase in phrases]
    return {"fewest": min(lengths), "mean": round(sum(lengths) / len(lengths), 1), "most": max(lengths)}
