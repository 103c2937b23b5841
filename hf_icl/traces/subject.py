"""One model, whoever saved it, opened to be measured: a run, a folder, or any repository on the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import PreTrainedModel

from hf_icl.banks.gguf import unpack
from hf_icl.circuits.instrument import find_instruments
from hf_icl.config import name_part
from hf_icl.distributed import choose_device
from hf_icl.errors import ConfigError, RunError
from hf_icl.hub.pull import pull_run
from hf_icl.hub.remote import Remote
from hf_icl.runs.folder import RUN_FILE
from hf_icl.runs.run import Run
from hf_icl.task.measuring import Reading
from hf_icl.task.task import Task
from hf_icl.traces.loading import (
    check_tokenizer,
    load_whole,
    reads_tokens,
)
from hf_icl.traces.questions import Questions, ask_of_model, ask_of_run
from hf_icl.traces.sources import HubSource, UnusableError, fetch_revision, open_source


@dataclass(frozen=True)
class Subject:
    """A model with what it is asked.

    Attributes:
        name: What it is called.
        model: On the device that was chosen, in evaluation mode.
        questions: What decides the numbers.
        task: Built of them.
        commit: On the Hub; None elsewhere.
        tokenizer: Fingerprint of the tokenizer of a language model; None where nobody looked.
    """

    name: str
    model: PreTrainedModel
    questions: Questions
    task: Task
    commit: str | None = None
    tokenizer: str | None = None

    def measure(self) -> Reading:
        """Return what it answers.

        Raises:
            ConfigError: If the model cannot be asked this.
        """
        return self.task.measure(
            self.model, instruments=find_instruments(self.questions.evaluate.instruments)
        )


@dataclass(frozen=True)
class _Found:
    """Where a model lies: a run, or the folder of a model with the source and revision of its bank."""

    run: Run | None
    folder: Path
    source: str
    revision: str | None = None


def open_subject(
    model: str,
    scratch: Path,
    *,
    revision: str | None = None,
    checkpoint: str | None = None,
    task: str | None = None,
    overrides: Iterable[str] = (),
    max_gigabytes: float = 10.0,
    device: torch.device | None = None,
    api: HfApi | None = None,
) -> Subject:
    """Open a model to be measured.

    Args:
        model: A run folder, a folder with a saved model, or a repository on the Hub, `user/name`.
        scratch: An empty folder for what is fetched.
        revision: Of a repository: branch, tag or commit; None: the main branch.
        checkpoint: Of a folder: a folder in it, such as checkpoint-2000.
        task: Preset or file whose task is asked; None: that of a run, and `finetune` for a language model.
        overrides: Settings on top of it, `key=value`.
        max_gigabytes: The most that is fetched.
        device: Where it is asked; None: the accelerator, if there is one.
        api: The Hub's client.

    Raises:
        HfIclError: If there is no such model, it cannot be loaded, or the task is none for it.
    """
    found = _find(model, scratch, revision, checkpoint, max_gigabytes, api)
    if found.run is not None and task is None:
        questions = ask_of_run(found.run.config, overrides)
        net, built, tokenizer = found.run.load_model(checkpoint), build_task(questions), None
    else:
        try:
            if task is None and not reads_tokens(found.folder):
                rule = f"{model} is a model, not a run: it does not know its task"
                raise ConfigError("--task", None, rule, "Name a preset.")
            questions = ask_of_model(task, overrides, found.source, found.revision)
            net = load_whole(found.folder, dtype=questions.dtype)
        except UnusableError as error:
            raise RunError(f"{model}: {error}.") from error
        built = build_task(questions)
        is_own = getattr(questions.task.bank, "source", None) == found.source
        tokenizer = check_tokenizer(built.bank, found.folder, model, is_own=is_own)
    net.to(device or choose_device())
    return Subject(model, net.eval(), questions, built, found.revision, tokenizer)


def build_task(questions: Questions) -> Task:
    """Build bank and evaluators."""
    with name_part("task"):
        task = Task(questions.task, seed=questions.seed)
        task.evaluators  # noqa: B018  drawn now, so that a spec the bank cannot serve is told at once
    return task


def _find(
    model: str,
    scratch: Path,
    revision: str | None,
    checkpoint: str | None,
    max_gigabytes: float,
    api: HfApi | None,
) -> _Found:
    path = Path(model).expanduser()
    if path.exists():
        if revision is not None:
            rule = f"{model} is a folder, which has no revisions"
            raise ConfigError("--revision", revision, rule, "Name a folder in it with --checkpoint.")
        if (path / RUN_FILE).exists():
            return _Found(Run.open(path), path / (checkpoint or ""), str(path / (checkpoint or "")))
        folder = Path(unpack(str(path / (checkpoint or ""))))
        if not folder.is_dir():
            there = ", ".join(sorted(one.name for one in path.glob("checkpoint-*"))) or "none"
            raise RunError(f"{folder}: no such folder. Checkpoints in {path}: {there}.")
        return _Found(None, folder, str(folder))
    source = open_source(model, max_gigabytes=max_gigabytes, api=api)
    assert isinstance(source, HubSource)
    if checkpoint is not None:
        rule = f"{model} is a repository, which has revisions"
        raise ConfigError("--checkpoint", checkpoint, rule, "Name one with --revision.")
    if is_run(source.remote, revision):
        run = pull_run(model, scratch / "run", revision=revision, max_gigabytes=max_gigabytes, api=api)
        return _Found(run, run.folder, model, revision)
    folder, commit = fetch_revision(source, revision, scratch)
    return _Found(None, folder, model, commit)


def is_run(remote: Remote, revision: str | None = None) -> bool:
    """Return whether a repository was pushed by hf_icl."""
    head = remote.find(revision)
    return head is not None and RUN_FILE in remote.list_files(head.commit)
