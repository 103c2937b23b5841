"""Classes from a model's own vocabulary: tokens whose input embeddings are near neighbours."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_icl.banks.bank import Bank, Vocabulary, make_bank
from hf_icl.banks.cache import find_cache_folder, open_cached
from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.embeddings import Checkpoint, open_checkpoint
from hf_icl.banks.grouping import group_neighbours, measure_spread
from hf_icl.banks.splits import number_exemplars
from hf_icl.banks.tokenizer import find_prefix, list_text_tokens, load_tokenizer, name_tokens
from hf_icl.banks.words import choose_labels, is_readable
from hf_icl.config import MOST_CLASSES, MOST_EXEMPLARS
from hf_icl.errors import BankError
from hf_icl.philox import draw_words, stream_of

logger = logging.getLogger(__name__)

LABEL_TOKEN_STREAM = stream_of("bank/label-tokens")
GROUP_STREAM = stream_of("bank/groups")
CACHE_FORMAT = 1
CHOICE = 1  # of label tokens and exemplars: raised when what is readable, a word or near changes
CHUNK_ROWS = 4096


class VocabularyConfig(BankConfigBase):
    """Classes of tokens that lie near one another in a checkpoint's input embeddings.

    >>> VocabularyConfig(source="meta-llama/Llama-3.2-1B", n_classes=3200, n_exemplars=5).metric
    'cosine'
    """

    kind: Literal["vocabulary"] = "vocabulary"
    source: str = pydantic.Field(min_length=1, description="A checkpoint: a folder, or a name on the Hub.")
    revision: str | None = pydantic.Field(
        default=None, min_length=1, description="Branch, tag or commit on the Hub; null: main."
    )
    n_classes: int = pydantic.Field(
        default=1600, ge=1, le=MOST_CLASSES, description="Training classes, grouped first."
    )
    n_exemplars: int = pydantic.Field(
        default=10, ge=1, le=MOST_EXEMPLARS, description="Tokens of each class."
    )
    n_labels: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=MOST_CLASSES,
        description="Label tokens that the classes share at random; null: label tokens of their own for "
        "every class.",
    )
    metric: Literal["cosine", "euclidean"] = pydantic.Field(
        default="cosine",
        description="Distance that makes neighbours; by the Euclidean one, short rows are near to "
        "everything.",
    )
    tokens: Literal["readable", "any"] = pydantic.Field(
        default="readable",
        description="readable: exemplars are text that can be read, and label tokens whole words, no near "
        "neighbours of one another or of exemplars; any: all tokens that stand for text, as version 0.1.0.",
    )
    vectors: bool = pydantic.Field(
        default=False,
        description="Give the rows of the embedding matrix as vectors, not the ids of the tokens.",
    )

    @property
    def n_label_tokens(self) -> int:
        """Tokens set aside as labels."""
        return self.n_labels or self.n_classes * self.labels_per_class

    @property
    def is_stackable(self) -> bool:
        """Vectors have a linear encoder; a language model reads ids by itself."""
        return self.vectors

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Group the checkpoint's tokens, see `load_vocabulary`."""
        return load_vocabulary(self, seed=seed, progress=progress)


def load_vocabulary(config: VocabularyConfig, *, seed: int = 0, progress: bool = False) -> Bank:
    """Group a checkpoint's tokens into classes of near neighbours, or read the groups from the cache.

    The seed first sets label tokens aside, then puts the other tokens in an order in which each that is still
    free begins a class and takes the nearest free ones (`group_neighbours`): the training classes, then the
    holdout classes, whose number changes neither training classes nor labels. The exemplars of a class are in
    random order. Left out are tokens that stand for no text (`list_text_tokens`), and those whose rows are
    zero, not finite, or exactly those of another token; and, unless `tokens` is any, what
    `hf_icl.banks.words` says. Groups are kept in `find_cache_folder()`, by the
    checkpoint's commit or files.

    Source of the task: Singh et al. 2023 (arXiv 2311.08360), with LLaMA, 3,200 classes of 5 and 1,600 of 10.

    Returns:
        A bank of ids with a `Vocabulary`, or of vectors (D,) float32 in the table's own units, as
        `config.vectors` says.

    Raises:
        BankError: If the checkpoint cannot be read, or has too few tokens.
    """
    checkpoint = open_checkpoint(config.source, config.revision)
    path = find_cache_folder() / "vocabulary" / f"{_make_key(checkpoint, config, seed)}.safetensors"
    cached = read_cached(path)
    table = None
    if cached is None:
        table = checkpoint.read_embeddings(progress=progress)
        cached = _group(checkpoint, table, config, seed, progress)
        _write_cached(path, *cached)
    tensors, about = cached
    tokens, data = tensors["tokens"], None
    if config.vectors:
        data = _load_rows(path.with_suffix(".rows.safetensors"), checkpoint, table, tokens, progress).float()
    names = {int(token): name for token, name in about["names"].items()}
    vocabulary = Vocabulary(
        tensors["label_tokens"],
        about["size"],
        tuple(about["prefix"]),
        names,
        functools.partial(load_tokenizer, checkpoint),
    )
    bank = make_bank(
        "vocabulary",
        data,
        number_exemplars(*tokens.shape) if config.vectors else tokens,
        seed=seed,
        vocabulary=None if config.vectors else vocabulary,
        **config.layout,
    )
    # Of a folder, only the name: reports are published.
    source = config.source if checkpoint.commit else Path(config.source).expanduser().resolve().name
    facts = {"source": source, "commit": checkpoint.commit, "metric": config.metric} | about["spread"]
    exemplar_names = [[names[token] for token in row] for row in tokens.tolist()]
    return dataclasses.replace(bank, facts=facts, exemplar_names=exemplar_names)


def _make_key(checkpoint: Checkpoint, config: VocabularyConfig, seed: int) -> str:
    counts = (config.n_classes, config.n_holdout_classes, config.n_exemplars, config.n_label_tokens)
    key = (CACHE_FORMAT, checkpoint.identity, counts, config.metric, seed)
    if config.tokens != "any":
        key += (config.tokens, CHOICE)
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _group(
    checkpoint: Checkpoint, table: Tensor, config: VocabularyConfig, seed: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return `tokens` (n_classes, n_exemplars) and `label_tokens`; and names, prefix, size and spread."""
    tokenizer = load_tokenizer(checkpoint)
    usable = drop_odd_rows(table, list_text_tokens(checkpoint, tokenizer, len(table)))
    label_tokens, candidates = _set_labels_aside(config, tokenizer, table, usable, seed)
    n_all = config.n_classes + config.n_holdout_classes
    n_needed = n_all * config.n_exemplars + len(label_tokens)
    if n_needed > len(candidates) + len(label_tokens):
        raise BankError(
            f"{config.source}: {len(candidates) + len(label_tokens):,} of its {len(table):,} tokens can be "
            f"used, but {n_all:,} classes × {config.n_exemplars} exemplars + {len(label_tokens):,} label "
            f"tokens make {n_needed:,}. Lower n_classes, n_holdout_classes, n_exemplars or n_labels."
        )
    words = draw_words(candidates, 4, seed=seed, stream=GROUP_STREAM)
    order = _sort_words(words[:, :2]).numpy()
    vectors = _take_rows(table, candidates, unit_length=config.metric == "cosine")
    groups = torch.from_numpy(group_neighbours(vectors, order, n_all, config.n_exemplars, progress=progress))
    place = torch.empty(len(candidates), dtype=torch.int64)
    place[_sort_words(words[:, 2:])] = torch.arange(len(candidates))
    groups = groups.gather(1, place[groups].argsort(1))
    tokens = candidates[groups]
    prefix = find_prefix(tokenizer)
    shown = [*tokens.flatten().tolist(), *label_tokens.tolist(), *prefix]
    about = {
        "names": name_tokens(tokenizer, shown),
        "prefix": prefix,
        "size": len(table),
        "spread": _describe_spread(table, tokens, config.n_classes),
    }
    return {"tokens": tokens, "label_tokens": label_tokens}, about


def _set_labels_aside(
    config: VocabularyConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    table: Tensor,
    usable: Tensor,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return the label tokens, and in ascending order those that exemplars are chosen from."""
    n_labels = config.n_label_tokens
    if config.tokens == "any":
        shuffled = usable[_shuffle(usable, LABEL_TOKEN_STREAM, seed)]
        return shuffled[:n_labels], shuffled[n_labels:].sort().values
    if tokenizer is None:
        raise BankError(
            f"{config.source}: comes without a tokenizer, so that nobody can say which tokens can be read. "
            "Save one there with the tokenizer's save_pretrained, or set tokens to any."
        )
    names = name_tokens(tokenizer, usable.tolist())
    readable = usable[
        torch.tensor([is_readable(names[token]) for token in usable.tolist()], dtype=torch.bool)
    ]
    vectors = _take_rows(table, readable, unit_length=config.metric == "cosine")
    order = _shuffle(readable, LABEL_TOKEN_STREAM, seed)
    labels, candidates = choose_labels(readable, vectors, order, names, n_labels)
    if len(labels) < n_labels:
        raise BankError(
            f"{config.source}: {len(labels):,} of its tokens are whole words and no near neighbours of one "
            f"another, but {n_labels:,} label tokens are needed. Lower n_labels, or set tokens to any."
        )
    return labels, candidates


def _shuffle(tokens: Tensor, stream: int, seed: int) -> Tensor:
    return _sort_words(draw_words(tokens, 2, seed=seed, stream=stream))


def _sort_words(words: Tensor) -> Tensor:
    """Return the order that two words per row put the rows into."""
    return torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)


def _describe_spread(table: Tensor, tokens: Tensor, n_train: int) -> dict[str, Any]:
    parts = {"spread": tokens[:n_train], "holdout_spread": tokens[n_train:]}
    return {name: measure_spread(table[part].float()) for name, part in parts.items() if len(part)}


def drop_odd_rows(table: Tensor, tokens: Tensor) -> Tensor:
    """Return the tokens whose rows are finite, not zero, and like no other token's.

    >>> table = torch.tensor([[1.0], [0.0], [2.0], [3.0], [2.0], [float("nan")]])
    >>> drop_odd_rows(table, torch.arange(6)).tolist()
    [0, 3]
    """
    kept, digests = [], []
    for part in tokens.split(CHUNK_ROWS):
        rows = table[part].float()
        fine = rows.isfinite().all(1) & rows.any(1)
        kept.append(part[fine])
        digests += [hashlib.blake2b(row, digest_size=8).digest() for row in rows[fine].numpy()]
    numbers = np.frombuffer(b"".join(digests), np.int64)
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return torch.cat(kept)[torch.from_numpy(counts[inverse] == 1)] if digests else tokens[:0]


def _take_rows(table: Tensor, tokens: Tensor, *, unit_length: bool) -> np.ndarray:
    """Return rows as float32, scaled to length 1 if wanted: nearest by angle is then nearest by distance."""
    rows = np.empty((len(tokens), table.shape[1]), dtype=np.float32)
    for start in range(0, len(tokens), CHUNK_ROWS):
        part = table[tokens[start : start + CHUNK_ROWS]].float()
        rows[start : start + CHUNK_ROWS] = torch.nn.functional.normalize(part) if unit_length else part
    return rows


def _load_rows(
    path: Path, checkpoint: Checkpoint, table: Tensor | None, tokens: Tensor, progress: bool
) -> Tensor:
    """Return the rows of some tokens in their order, from the cache if they are there."""
    cached = None if table is not None else read_cached(path)
    if cached is not None:
        return cached[0]["rows"]
    table = checkpoint.read_embeddings(progress=progress) if table is None else table
    rows = table[tokens.flatten()]
    _write_cached(path, {"rows": rows}, {})
    return rows


def _write_cached(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    text = json.dumps(about)
    metadata = {"about": text, "digest": _digest(tensors, text)}
    with open_cached(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))


def read_cached(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what a cache file holds; None where there is none, or it is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        if metadata["digest"] == _digest(tensors, metadata["about"]):
            return tensors, json.loads(metadata["about"])
        reason: object = "its content is not what was written"
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = error
    logger.warning("%s: broken (%s); made again.", path, reason)
    return None


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
