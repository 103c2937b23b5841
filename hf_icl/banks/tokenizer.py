"""What a checkpoint's tokenizer says of its tokens: which carry text, what they are called,
what comes before any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_icl.banks.embeddings import Checkpoint
from hf_icl.errors import BankError
from hf_icl.reading import read_json

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tiktoken.model", "tekken.json",
)  # fmt: skip
# Names that vocabularies give to rows nothing was trained on, and to single bytes.
UNUSED = re.compile(
    r"[\[<(|]+(unused|reserved|extra_id|extra_\d|dummy|placeholder|special_|pad\d|unk_\d|mask_\d|vocab_pad|empty)"
    r"|madeupword\d|<0x[0-9a-f]{2}>$",
    re.IGNORECASE,
)
ANCHOR = (
    "a"  # a piece of plain text, to see what a tokenizer puts around text and how a token reads within it
)


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    """Return a checkpoint's tokenizer, None where it comes without one.

    Raises:
        BankError: If it has a tokenizer that cannot be loaded.
    """
    if not any((checkpoint.folder / name).exists() for name in TOKENIZER_FILES):
        return None  # transformers would make one up
    try:
        return AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise BankError(
            f"{checkpoint.source}: its tokenizer cannot be loaded ({error}). Save it again with the "
            "tokenizer's save_pretrained."
        ) from error


def list_text_tokens(
    checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase | None, n_rows: int
) -> Tensor:
    """Return the ids of tokens that stand for text, int64, in ascending order.

    Left out are special tokens, ids that the tokenizer does not have (tables are padded), single bytes, and
    names that say unused or reserved. Without a tokenizer, only the special tokens that the configs name.
    """
    if tokenizer is None:
        special = _list_special_ids(checkpoint)
        return torch.tensor([token for token in range(n_rows) if token not in special])
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.update(tokenizer.all_special_ids)
    tokens = (
        token
        for name, token in tokenizer.get_vocab().items()
        if token < n_rows and token not in special and not is_unused(name)
    )
    return torch.tensor(sorted(set(tokens)), dtype=torch.int64)


def is_unused(name: str) -> bool:
    """Return whether a token's name says that it is a placeholder or a single byte.

    >>> unused = ("<unused12>", "[unused1]", "<|reserved_special_token_3|>", "<extra_id_0>", "<0x0A>")
    >>> [is_unused(name) for name in unused]
    [True, True, True, True, True]
    >>> [is_unused(name) for name in ("unused", "▁reserved", "<b>", "[", "Ġ<")]
    [False, False, False, False, False]
    """
    return UNUSED.match(name) is not None


def _list_special_ids(checkpoint: Checkpoint) -> set[int]:
    special: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = checkpoint.folder / name
        try:
            settings = read_json(path) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise BankError(f"{path}: cannot be read ({error}). Check the file.") from error
        if not isinstance(settings, dict):
            raise BankError(f"{path}: holds no settings of a model. Check the file.")
        for part in (settings, settings.get("text_config") or {}):
            for key, value in part.items():
                if key.endswith("_token_id") or key.endswith("_token_index"):
                    special.update(value if isinstance(value, list) else [value])
    return special - {None}


def find_prefix(tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    """Return the tokens that a tokenizer puts before any text, such as the one that begins a sequence."""
    if tokenizer is None:
        return ()
    whole = tokenizer(ANCHOR)["input_ids"]
    text = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
    starts = (start for start in range(len(whole)) if text and whole[start : start + len(text)] == text)
    return tuple(whole[: next(starts, 0)])


def name_tokens(tokenizer: PreTrainedTokenizerBase | None, tokens: Iterable[int]) -> dict[int, str]:
    """Return the text of each token as it reads within a text, spaces before it included.

    >>> name_tokens(None, [17])
    {17: '⟨17⟩'}
    """
    if tokenizer is None:
        return {token: f"⟨{token}⟩" for token in tokens}
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"][-1:]

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    skip = len(decode(anchor))
    return {token: decode([*anchor, token])[skip:] for token in tokens}


def write_phrase(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the tokens of a text as it stands within another, a space before it."""
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{ANCHOR} {text}", add_special_tokens=False)["input_ids"]
    if whole[: len(anchor)] != anchor:
        return tuple(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
    return tuple(whole[len(anchor) :])


def read_phrase(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], *, begins: bool = False) -> str:
    """Return the text of some tokens as they read within a text, or at its beginning."""
    if begins:
        return tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"][-1:]
    before, whole = (
        tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (anchor, [*anchor, *tokens])
    )
    return whole[len(before) :]
