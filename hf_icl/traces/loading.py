"""A model from a folder, whole, on the device that there is; and what its tokens mean."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_icl.banks.bank import Bank
from hf_icl.banks.embeddings import Checkpoint
from hf_icl.banks.tokenizer import find_prefix, load_tokenizer, name_tokens
from hf_icl.errors import BankError, RunError
from hf_icl.models.build import load_model
from hf_icl.models.icl_config import ICLConfig
from hf_icl.traces.sources import ADAPTER, UnusableError
from hf_icl.wording import shorten

FINGERPRINT_DIGITS = 16
MOST_NAMED = 3  # of the weights that are missing


def reads_tokens(folder: Path) -> bool:
    """Return whether a saved model is a language model, or an adapter of one, and no `ICLModel`.

    Raises:
        UnusableError: If there is no model that transformers knows.
    """
    if (folder / ADAPTER).exists():
        return True
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).replace(str(folder), "it")
        raise UnusableError(f"holds neither a run nor a saved model ({said})") from error
    return not isinstance(config, ICLConfig)


def load_whole(folder: Path, *, dtype: str = "float32") -> PreTrainedModel:
    """Load a saved model, in evaluation mode.

    A language model without some of its weights, which transformers would make up, is none. No code that
    comes with a model is run, and nothing pickled is read.

    Args:
        folder: Where it is.
        dtype: Of a language model's weights in memory.

    Raises:
        UnusableError: If it cannot be loaded.
    """
    try:
        if not reads_tokens(folder) or (folder / ADAPTER).exists():
            return load_model(folder).eval()
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (UnusableError, RunError):
        raise
    except Exception as error:  # a model's settings decide what it runs into
        said = f"{type(error).__name__}: {error}".replace(str(folder), "it")
        raise UnusableError(f"its model cannot be loaded ({shorten(said)})") from error
    odd = sorted(info["missing_keys"]) or sorted(str(key[0]) for key in info.get("mismatched_keys", ()))
    if odd:
        named = ", ".join(odd[:MOST_NAMED]) + (" …" if len(odd) > MOST_NAMED else "")
        raise UnusableError(f"lacks {len(odd)} of its weights ({named}), which would be made up")
    return model.eval()


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what two tokenizers share only if every token is the same, 16 hexadecimal digits."""
    tokens = sorted((token, text) for text, token in tokenizer.get_vocab().items())
    written = json.dumps([tokens, find_prefix(tokenizer)], ensure_ascii=False)
    return hashlib.sha256(written.encode()).hexdigest()[:FINGERPRINT_DIGITS]


def check_tokenizer(bank: Bank, folder: Path, name: str, *, is_own: bool) -> str | None:
    """Return the fingerprint of a saved model's tokenizer, None where a bank needs none.

    Args:
        bank: What is asked about.
        folder: Where the model is.
        name: What it is called.
        is_own: Whether the bank is made from this very model. Of one that comes without a tokenizer nobody
            knows then what its tokens mean; somebody who named another source does.

    Raises:
        BankError: If there is no tokenizer, it cannot be loaded, or to it the bank's tokens are others than
            when the bank was made: that two vocabularies are of one size says nothing.
    """
    if bank.vocabulary is None:
        return None
    tokenizer = load_tokenizer(Checkpoint(name, folder))
    if tokenizer is not None:
        check_tokens(bank, tokenizer, name)
        return fingerprint(tokenizer)
    if is_own:
        raise BankError(
            f"{name}: comes without a tokenizer, so that nobody can say what its tokens mean. Save one "
            "there with the tokenizer's save_pretrained, or name the model that it belongs to: "
            "task.bank.source=MODEL"
        )
    return None


def check_tokens(bank: Bank, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise `BankError` unless a bank's tokens are, to a tokenizer, what they were when it was made."""
    known = dict(bank.vocabulary.names)
    found = name_tokens(tokenizer, known)
    odd = [token for token in known if found[token] != known[token]]
    source = bank.facts.get("source", "another model")
    way_out = "Leave task.bank.source out, so that the bank comes from this model."
    if odd:
        first = odd[0]
        raise BankError(
            f"{name}: another tokenizer than that of the bank, which was made from {source}: token {first:,} "
            f"is {found[first]!r} and was {known[first]!r}, and so with {len(odd):,} of {len(known):,}. "
            f"{way_out}"
        )
    prefix = find_prefix(tokenizer)
    if tuple(bank.vocabulary.prefix) != prefix:
        raise BankError(
            f"{name}: its tokenizer puts {list(prefix)} before a text, and that of the bank, which was made "
            f"from {source}, {list(bank.vocabulary.prefix)}. {way_out}"
        )
