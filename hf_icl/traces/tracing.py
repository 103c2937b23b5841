"""A model measured along its checkpoints, whoever made them, into a folder that can be gone on with."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from hf_icl.banks.bank import Bank
from hf_icl.banks.facts import describe_bank
from hf_icl.config import MOST_STEPS
from hf_icl.errors import ConfigError, HfIclError, HubError, RunError
from hf_icl.files import explain, is_unused
from hf_icl.history.history import make_row
from hf_icl.history.lines import Row
from hf_icl.history.origin import describe_origin
from hf_icl.history.record import begins_pretrained
from hf_icl.local import hide_words
from hf_icl.locks import hold
from hf_icl.runs.config import RunConfig, read_config
from hf_icl.runs.folder import CONFIG_FILE, RUN_FILE, read_about
from hf_icl.runs.run import Run
from hf_icl.task.task import Task
from hf_icl.traces.choosing import MAIN, Choice, choose, thin_out
from hf_icl.traces.folder import TRACE_FILE, About, Series, Trace
from hf_icl.traces.measuring import Measurer, Outcome, Revision
from hf_icl.traces.names import find_tokens_per_step
from hf_icl.traces.questions import Questions, ask_of_model, ask_of_run
from hf_icl.traces.sources import FolderSource, HubSource, Source, UnusableError, open_source
from hf_icl.traces.subject import build_task, is_run

SCRATCH = ".fetched"
FIRST_STAGES = ("", "stage1")  # before which there was no training


@dataclass(frozen=True)
class Progress:
    """What came of one revision, and how far the trace is.

    Attributes:
        series: Of which series it is.
        outcome: What came of it.
        number: Its number in the series, from 1.
        count: Revisions of the series.
    """

    series: Series
    outcome: Outcome
    number: int
    count: int


@dataclass(frozen=True)
class _Plan:
    """What is to be measured of one source."""

    source: Source
    choice: Choice
    names: Mapping[str, str | None]
    stages: dict[str, list[Revision]]

    @property
    def paths(self) -> list[str]:
        """Local paths, which reports do not name."""
        return [self.source.place] if isinstance(self.source, FolderSource) else []

    @property
    def revisions(self) -> list[Revision]:
        """All that is to be measured, by stage and step."""
        return [one for stage in self.stages.values() for one in stage]


@dataclass(frozen=True)
class _Asked:
    """What is asked: the trace it goes to, the task and what that was built of; whether the bank comes from a
    revision that is measured, and whether the first one was trained before, None where nobody knows."""

    trace: Trace
    task: Task
    questions: Questions
    is_own: bool
    pretrained: bool | None


def trace(
    models: str | Sequence[str],
    folder: str | Path,
    *,
    revisions: str | Sequence[str] | None = None,
    max_revisions: int | None = None,
    task: str | None = None,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    tokens_per_step: int | None = None,
    pretrained: bool | None = None,
    max_gigabytes: float = 10.0,
    max_seconds: float = 3600.0,
    device: torch.device | None = None,
    command: str = "",
    tell: Callable[[Progress], None] | None = None,
    api: HfApi | None = None,
) -> Trace:
    """Measure a model along its published checkpoints, or those in a folder.

    Revisions are fetched, measured and deleted one by one. Called again with the same folder it goes on where
    it stopped, and measures what has been added since. The bank is made once, of the last revision of the
    first model, unless `task.bank.source` names another.

    Args:
        models: A repository, or a folder of folders such as `checkpoint-100`; several are replicas of one
            another, as PolyPythias' seeds are, where their models are of one type and size.
        folder: Where the trace is, or will be.
        revisions: Which: a pattern or a list, see `hf_icl.traces.choosing.choose`; None: all whose names are
            of a known form.
        max_revisions: The most of a series, ever further apart; None: all.
        task: Preset or file whose task is asked; None: that of a run, and `finetune` of a language model.
        overrides: Settings on top of it, such as `task.n_eval_sequences=500` or `evaluate.heads=true`.
        tokens_per_step: Where names tell steps alone; None: as it is known of the series, if it is.
        pretrained: Whether the first revision is of a model that was trained before, as where a fine-tune is
            traced: its curves may begin high. None: only in a stage after the first.
        max_gigabytes: The most disk that is taken, which is that of one revision.
        max_seconds: The longest that the Hub is waited for, for each revision.
        device: Where models are asked; None: the accelerator, if there is one.
        command: What was typed, for the record.
        tell: Told of each revision.
        api: The Hub's client.

    Returns:
        The trace, whose `records()` make a report.

    Raises:
        ConfigError: If revisions cannot be chosen, or a setting is wrong.
        RunError: If the folder holds something else, the Hub or the disk keeps from going on, or no revision
            could be measured.
    """
    folder, models = Path(folder), [models] if isinstance(models, str) else list(models)
    if tokens_per_step is not None and not 1 <= tokens_per_step <= MOST_STEPS:
        raise ConfigError("tokens_per_step", tokens_per_step, "must be 1 or more", "Leave it out if unknown.")
    bounds = {"max_gigabytes": max_gigabytes, "max_seconds": max_seconds, "api": api}
    plans = [_plan(open_source(model, **bounds), revisions, max_revisions) for model in models]
    if not (folder / TRACE_FILE).exists() and not is_unused(folder):
        raise RunError(f"{folder}: is there already, and holds no trace. Choose another --output.")
    with explain(folder, "Choose another --output."):
        folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        asked = _ask(folder, plans[0], task, overrides, command)
        opened = asked.trace
        for plan in plans:
            per_step = tokens_per_step or find_tokens_per_step(plan.source.place)
            measurer = Measurer(
                plan.source, asked.task, asked.questions, folder / SCRATCH, is_own=asked.is_own, device=device
            )
            for name, why in plan.choice.left_out.items():
                opened.skip(plan.source.name, name, why)
            for stage, chosen in plan.stages.items():
                begun = asked.pretrained if pretrained is None else pretrained
                series = _open_series(opened, plan.source, stage, begun)
                _measure(opened, series, measurer, plan, chosen, per_step, tell)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    if not any(opened.history(series).rows for series in opened.about.series):
        whys = [one["why"] for one in opened.about.skipped]
        raise RunError(f"{folder}: no revision could be measured; the last one {whys[-1]}.")
    return opened


def _plan(source: Source, wanted: str | Sequence[str] | None, most: int | None) -> _Plan:
    names = source.list_names()
    try:
        choice = choose(names, wanted)
    except ConfigError as error:
        raise ConfigError(f"{source.name}, {error.field}", error.value, error.rule, error.hint) from error
    stages: dict[str, list[Revision]] = {}
    for name, mark in thin_out(choice.marks, most).items():
        stages.setdefault(mark.stage, []).append(Revision(name, mark, names[name]))
    return _Plan(source, choice, names, stages)


def _ask(
    folder: Path, plan: _Plan, task: str | None, overrides: Iterable[str] | Mapping[str, Any], command: str
) -> _Asked:
    """Build what is asked, of a trace that is new or gone on with."""
    overrides = overrides if isinstance(overrides, Mapping) else list(overrides)
    earlier = Trace.open(folder) if (folder / TRACE_FILE).exists() else None
    config = _read_run(plan.source, folder / SCRATCH) if task is None else None
    if config is not None:
        questions, pretrained = ask_of_run(config, overrides), begins_pretrained(config.to_dict())
    else:
        questions, pretrained = ask_of_model(task, overrides, *_choose_bank(plan, earlier)), None
    built = build_task(questions)
    digest = digest_bank(built.bank)
    if earlier is None:
        about = About(
            questions=questions.describe(),
            provenance=describe_origin(questions.seed, hide_words(command, plan.paths)),
            chance=built.chance,
            n_sequences={name: len(evaluator.batch) for name, evaluator in built.evaluators.items()},
            bank=describe_bank(built.bank),
            bank_digest=digest,
        )
        made = Trace(folder, about)
    else:
        earlier.check_same(questions.describe(), digest)
        earlier.about.skipped.clear()
        made = earlier
    made.save()
    return _Asked(made, built, questions, _is_of(plan.source, questions), pretrained)


def _is_of(source: Source, questions: Questions) -> bool:
    """Return whether the bank is made from one of a source's revisions."""
    place = getattr(questions.task.bank, "source", None)
    if place is None or not isinstance(source, FolderSource):
        return place == source.place
    return Path(place).parent == source.folder


def _choose_bank(plan: _Plan, earlier: Trace | None) -> tuple[str, str | None]:
    """Return the model and revision that a bank is made from: as before, or the last that can be measured."""
    if earlier is not None and "source" in (bank := earlier.about.questions["task"]["bank"]):
        return bank["source"], bank.get("revision")
    whys = {}
    for one in reversed(plan.revisions):
        try:
            plan.source.identify(one.name, one.commit)
        except UnusableError as error:
            whys[one.name] = str(error)
            continue
        if isinstance(plan.source, FolderSource):
            return str(plan.source.folder / one.name), None
        return plan.source.place, one.commit
    told = "; ".join(f"{name} {why}" for name, why in list(whys.items())[:3])
    raise RunError(f"{plan.source.name}: no revision can be measured ({told}). Name others with --revisions.")


def _read_run(source: Source, scratch: Path) -> RunConfig | None:
    """Return the config of a run of ours, whose checkpoints these are; None of others."""
    if isinstance(source, FolderSource):
        is_ours = (source.folder / RUN_FILE).exists()
        return Run.open(source.folder).config if is_ours else None
    assert isinstance(source, HubSource)
    if not is_run(source.remote):
        return None
    commit = source.remote.read_head()
    files = source.remote.list_files(commit)
    with explain(scratch, "Choose another --output."):
        scratch.mkdir(parents=True, exist_ok=True)
    try:
        for name in (RUN_FILE, CONFIG_FILE):
            (scratch / name).write_bytes(source.remote.read(name, files[name], commit))
        return read_config(read_about(scratch)["config"])
    except (HfIclError, KeyError, TypeError) as error:
        said = str(error).replace(str(scratch), "what came")
        raise HubError(f"{source.place}: its {RUN_FILE} is damaged ({said})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def digest_bank(bank: Bank) -> str:
    """Return a hash of a bank's exemplars and labels, by which it is known again."""
    digest = hashlib.sha256()
    vocabulary = bank.vocabulary
    tensors = (bank.rows, bank.data, bank.labels, vocabulary and vocabulary.label_tokens)
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(repr(vocabulary and tuple(vocabulary.prefix)).encode())
    if vocabulary and vocabulary.label_phrases:
        digest.update(repr((vocabulary.exemplar_phrases, vocabulary.label_phrases)).encode())
    return digest.hexdigest()


def _open_series(trace: Trace, source: Source, stage: str, pretrained: bool | None) -> Series:
    name, place = _make_plain("-".join(filter(None, (source.name, stage)))), source.place
    if pretrained is None:
        pretrained = stage not in FIRST_STAGES
    if isinstance(source, FolderSource):
        place = str(source.folder.resolve())
    shown = source.name if isinstance(source, FolderSource) else place
    series = trace.add_series(Series(name=name, place=place, shown=shown, stage=stage, pretrained=pretrained))
    trace.save()
    return series


def _make_plain(name: str) -> str:
    """Return a name for a folder.

    >>> _make_plain("my model/stage 1")
    'my-model-stage-1'
    """
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "-" for sign in name)


def _measure(
    trace: Trace,
    series: Series,
    measurer: Measurer,
    plan: _Plan,
    chosen: list[Revision],
    tokens_per_step: int | None,
    tell: Callable[[Progress], None] | None,
) -> None:
    """Measure the revisions of a series that have no row yet."""
    rows = trace.history(series).rows
    known = {row["step"]: (row.get("commit"), row.get("weights", "")) for row in rows}
    last = max(mark.step for mark in plan.choice.marks.values() if mark.stage == series.stage)
    outcomes = measurer.measure_all(chosen, known, main=_identify_main(plan), last=last)
    for number, outcome in enumerate(outcomes, start=1):
        if outcome.why:
            trace.skip(series.name, outcome.revision.name, outcome.why)
        if outcome.reading is not None:
            if not series.model:
                series.model.update(outcome.model or {})
                trace.save()
            trace.put(series, _make_row(outcome, tokens_per_step))
        if tell is not None:
            tell(Progress(series, outcome, number, len(chosen)))


def _identify_main(plan: _Plan) -> str | None:
    """Return the weights of the main branch; None where it has none, as PolyPythias'."""
    if MAIN not in plan.names:
        return None
    try:
        return plan.source.identify(MAIN, plan.names[MAIN])
    except UnusableError:
        return None


def _make_row(outcome: Outcome, tokens_per_step: int | None) -> Row:
    """Return a revision's row: as a run's, but that nobody knows how many sequences were seen."""
    revision, (means, hits) = outcome.revision, outcome.reading
    step, tokens = revision.mark.step, revision.mark.tokens
    if tokens is None and tokens_per_step is not None:
        tokens = step * tokens_per_step
    row = make_row(step, 0, means, {name: values.numpy() for name, values in hits.items()})
    own = {"tokens": tokens, "revision": revision.name, "commit": revision.commit, "weights": outcome.weights}
    return {"step": step, "sequences": None, **own, "metrics": row["metrics"], "hits": row["hits"]}
