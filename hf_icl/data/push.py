"""Puts a task on the Hub as Parquet, which plain `load_dataset("user/name")` reads without any code of
ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from hf_icl.data.card import NO_REPO, merge_cards
from hf_icl.data.export import CARD, export_parquet, name_configuration
from hf_icl.hub.remote import Remote
from hf_icl.hub.repos import commit_files, prepare_repo
from hf_icl.task.task import Task


def push_dataset(
    task: Task,
    repo_id: str,
    *,
    public: bool = False,
    n_sequences: int = 100_000,
    with_exemplars: bool = False,
    name: str | None = None,
    progress: bool = False,
    api: HfApi | None = None,
) -> bool:
    """Write a task's training sequences and evaluators into a dataset repository, as one configuration of it.

    Other configurations of the repository, and what else its card says, stay as they are. The same again
    makes no second commit; the same name with other settings replaces the configuration.

    Args:
        task: What to write.
        repo_id: As user/name.
        public: Whether everyone shall see it; `describe_visibility` says it in a sentence.
        n_sequences: Rows of the split train.
        with_exemplars: Write the exemplars too, not only their ids.
        name: What the configuration is called; after the bank if left out.
        progress: Show bars on standard error, if that is a terminal.
        api: The Hub's client.

    Returns:
        Whether there was anything new.

    Raises:
        ConfigError: If a setting is out of range, the repository is there with another visibility than asked
            for, or its card cannot be read.
        HubError: If the Hub cannot be asked, refuses, or does not show afterwards what was sent.
    """
    remote = Remote(repo_id, "dataset", api=api)
    name = name_configuration(task, name)
    prepare_repo(remote, public=public)
    with tempfile.TemporaryDirectory(prefix="hf_icl_") as scratch:
        folder = export_parquet(
            task,
            Path(scratch) / "data",
            n_sequences=n_sequences,
            with_exemplars=with_exemplars,
            name=name,
            progress=progress,
        )
        card = (folder / CARD).read_text(encoding="utf-8").replace(NO_REPO, repo_id)
        parent = remote.read_head()
        there = remote.list_files(parent)
        if CARD in there:
            card = merge_cards(remote.read(CARD, there[CARD], parent).decode("utf-8", "replace"), card)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(f"{name}/*"))}
        return commit_files(
            remote,
            {CARD: card.encode()} | files,
            message=f"Configuration {name}: {n_sequences:,} training sequences",
            whole=f"{name}/",
            parent=parent,
        )
