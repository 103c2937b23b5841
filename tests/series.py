"""Tiny language models, and series of their checkpoints on the loopback Hub, named as public series are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from tests.small_lm import make_tokenizer

SIZE = 700  # of the vocabulary
BANK = {"n_classes": 12, "n_holdout_classes": 4, "n_exemplars": 4, "n_labels": 6}
SMALL = [*(f"task.bank.{name}={value}" for name, value in BANK.items()), "task.n_eval_sequences=16"]
SMALL += ["task.evaluators=[icl,flip]"]
PUT = """
from huggingface_hub import HfApi
api, repo = HfApi(), {repo!r}
api.create_repo(repo, exist_ok=True, private=False)
result = {{}}
for name, (folder, kind) in {revisions!r}.items():
    base = result.get(kind, "main")
    if folder is not None:
        api.create_branch(repo, branch=f"made-{{len(result)}}" if kind == "tag" else name, exist_ok=True)
        branch = f"made-{{len(result)}}" if kind == "tag" else name
        result[name] = api.upload_folder(repo_id=repo, folder_path=folder, revision=branch).oid
        if kind == "tag":
            api.create_tag(repo, tag=name, revision=result[name])
            api.delete_branch(repo, branch=branch)
    elif kind != "branch":
        api.create_branch(repo, branch=name, revision=base)
    else:
        api.create_branch(repo, branch=name)
"""


def save_model(
    folder: Path, seed: int = 0, *, size: int = SIZE, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Save a fresh GPT-2 of one layer, with a tokenizer if one is given."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def save_series(folder: Path, steps: Iterable[int], form: str = "checkpoint-{}") -> list[Path]:
    """Save a model for each step, with one tokenizer, in folders named by a form."""
    tokenizer = make_tokenizer(SIZE)
    return [save_model(folder / form.format(step), step, tokenizer=tokenizer) for step in steps]


def publish(hub, repo: str, revisions: Mapping[str, tuple[Path | None, str]]) -> dict[str, str]:
    """Put revisions into a repository on the loopback Hub, and return the commit of each that has files.

    Args:
        hub: The Hub.
        repo: user/name, made if need be.
        revisions: Name to a folder, or None for an empty one, and what it is: "branch", "tag", or the name of
            an earlier revision whose commit it shares.
    """
    given = {name: (folder and str(folder), kind) for name, (folder, kind) in revisions.items()}
    return hub.run(PUT.format(repo=repo, revisions=given))
