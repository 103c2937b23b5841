"""The revisions of one model measured one after the other: fetched, loaded, asked, and let go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hf_icl.circuits.instrument import find_instruments
from hf_icl.distributed import choose_device
from hf_icl.errors import HfIclError
from hf_icl.task.measuring import Reading
from hf_icl.task.task import Task
from hf_icl.traces.choosing import MAIN
from hf_icl.traces.loading import check_tokenizer, load_whole
from hf_icl.traces.names import Mark
from hf_icl.traces.questions import Questions
from hf_icl.traces.sources import Source, UnusableError


@dataclass(frozen=True)
class Revision:
    """A revision that is to be measured.

    Attributes:
        name: Branch, tag, or folder.
        mark: Where in training it stands.
        commit: On the Hub; None elsewhere.
    """

    name: str
    mark: Mark
    commit: str | None


@dataclass(frozen=True)
class Outcome:
    """What came of one revision: a reading, or why there is none.

    Attributes:
        revision: Which.
        weights: What identifies its weights; empty where they could not be looked at.
        reading: What was measured, None where nothing was.
        why: Why nothing was measured; empty where it was, and where it had been before.
        model: Type and parameters of the model that was loaded.
    """

    revision: Revision
    weights: str = ""
    reading: Reading | None = None
    why: str = ""
    model: Mapping[str, object] | None = None


class Measurer:
    """Measures revisions of one source.

    Args:
        source: Where they are.
        task: What is asked.
        questions: What it was built of.
        scratch: A folder for what is fetched, which is deleted again.
        is_own: Whether the bank is made from one of these revisions.
        device: Where models are asked; None: the accelerator, if there is one.
    """

    def __init__(
        self,
        source: Source,
        task: Task,
        questions: Questions,
        scratch: Path,
        *,
        is_own: bool,
        device: torch.device | None = None,
    ) -> None:
        self.source, self.task, self.questions, self.scratch = source, task, questions, scratch
        self.is_own, self.device = is_own, device or choose_device()
        self.instruments = find_instruments(questions.evaluate.instruments)

    def measure_all(
        self,
        revisions: list[Revision],
        known: Mapping[int, tuple[str | None, str]],
        *,
        main: str | None = None,
        last: int | None = None,
    ) -> Iterator[Outcome]:
        """Yield what comes of each revision, in their order.

        Args:
            revisions: Of one stage, by rising step.
            known: Step to commit and weights of the rows that are there: they are not measured again.
            main: The weights of the main branch, which no revision but the last has.
            last: The step of the last revision that there is, chosen or not.

        Raises:
            HfIclError: If the Hub, or the disk, keeps from going on. What was yielded is measured.
        """
        seen: dict[str, str] = {}
        for one in revisions:
            commit, weights = known.get(one.mark.step, (None, ""))
            if commit is not None and commit == one.commit:
                seen[weights] = one.name
                yield Outcome(one, weights)
                continue
            try:
                found = self.source.identify(one.name, one.commit)
                if found == weights:  # under another commit
                    seen[weights] = one.name
                    yield Outcome(one, weights)
                    continue
                if found in seen:
                    raise UnusableError(f"holds the weights of {seen[found]} again")
                if found == main and one.mark.step != last and one.name != MAIN:
                    raise UnusableError("holds the weights of main, which is the end of training")
                reading, model = self.measure(one)
            except UnusableError as error:
                yield Outcome(one, why=str(error))
                continue
            seen[found] = one.name
            yield Outcome(one, found, reading, model=describe_model(model))

    def measure(self, revision: Revision) -> tuple[Reading, PreTrainedModel]:
        """Measure one revision, and delete what was fetched for it.

        Raises:
            UnusableError: If it cannot be measured, and others can.
        """
        named = f"{self.source.name}, {revision.name}"
        folder = self.source.fetch(revision.name, revision.commit, self.scratch)
        try:
            model = load_whole(folder, dtype=self.questions.dtype)
            check_tokenizer(self.task.bank, folder, named, is_own=self.is_own)
            reading = self.task.measure(model.to(self.device), instruments=self.instruments)
        except HfIclError as error:
            said = str(error).removeprefix(f"{named}: ").rstrip(".")
            raise UnusableError(said) from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's settings decide what it runs into
            raise UnusableError(f"cannot be measured ({type(error).__name__}: {error})") from error
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        return reading, model


def describe_model(model: PreTrainedModel) -> dict[str, object]:
    """Return what tells models apart that are no replicas of one another."""
    n_parameters = sum(weight.numel() for weight in model.parameters())
    return {"type": model.config.model_type, "n_parameters": n_parameters}
