"""Which evaluators a bank allows, and which form a task's sequences reach a model in."""

from __future__ import annotations

from collections.abc import Iterable

from hf_icl.banks.bank import Bank
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import SequenceSpec
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT, frequency_specs, standard_specs
from hf_icl.task.forms import Form, TokenForm, VectorForm
from hf_icl.task.phrases import PhraseForm
from hf_icl.task.prompt import make_template
from hf_icl.task.written import PromptConfig


def choose_form(
    name: str | None, bank: Bank, specs: Iterable[SequenceSpec], prompt: PromptConfig | None = None
) -> Form:
    """Return the form of that name; None: tokens for a bank of a model's vocabulary, else vectors.

    Args:
        name: vectors or tokens.
        bank: What is given.
        specs: How sequences are drawn.
        prompt: How tokens are written.

    Raises:
        ConfigError: If the bank or a sequence spec cannot be put in that form, or the prompt not be written.
    """
    name = name or ("tokens" if bank.vocabulary and bank.kind == "ids" else "vectors")
    if name == "vectors" and bank.vocabulary and bank.kind == "ids":
        rule = "a bank of a vocabulary's tokens has no vectors yet"
        raise ConfigError("form", name, rule, "Set the bank's vectors to true, or the form to tokens.")
    if name == "tokens":
        for spec in specs:
            if spec.noise:
                rule = "tokens carry no noise"
                raise ConfigError("train.noise", spec.noise, rule, "Set it to 0, or form to vectors.")
        form = PhraseForm if bank.vocabulary and bank.vocabulary.label_phrases else TokenForm
        return form(None if prompt is None else make_template(prompt, bank))
    if prompt is not None:
        rule = "is how a language model is asked, and this task gives vectors"
        raise ConfigError("prompt", prompt.template, rule, "Leave it out, or take a bank of kind vocabulary.")
    return VectorForm()


def choose_specs(config: TaskConfig, bank: Bank) -> dict[str, tuple[SequenceSpec, ...]]:
    """Return sequence specs by evaluator name: those asked for, or all that the bank allows, and own ones.

    Raises:
        ConfigError: If one is asked for that the bank, or a context of one place, does not allow.
    """
    available = _list_available(config, bank)
    lacking = _find_lacking(available, bank)
    for name in config.evaluators or ():
        if name in lacking or name not in available:
            short = "the context has 1 place"
            rule = "the bank has fewer than 2 holdout classes" if name in lacking else short
            raise ConfigError("evaluators", name, rule, "Leave the evaluator out, or change the task.")
    chosen = config.evaluators
    if chosen is None:
        left_out = lacking | _find_short(available, bank)
        if not config.by_frequency:
            left_out |= {name for name in available if EVALUATORS[name].part is not None}
        chosen = [name for name in available if name not in left_out]
    own = {name: (spec,) for name, spec in config.extra_evaluators.items()}
    return {name: available[name] for name in chosen} | own


def _list_available(config: TaskConfig, bank: Bank) -> dict[str, tuple[SequenceSpec, ...]]:
    """Return what a context of that length can be asked: in one place, fresh training sequences alone."""
    first = config.train_specs[0]
    available = {TRAIN_SPLIT: config.train_specs}
    if first.n_context < 2:
        return available
    labels = config.icl_labels or ("all" if bank.vocabulary else "first")
    standard = standard_specs(first.n_context) | frequency_specs(first.n_context, first.zipf)
    for name, spec in standard.items():
        is_drawn = spec.labels == "remapped" and labels == "all"
        of_all = {"n_remap": max(2, bank.n_labels)} if is_drawn else {}
        available[name] = (spec.replace(repeat_exemplars=first.repeat_exemplars, **of_all),)
    return available


def _find_lacking(available: dict[str, tuple[SequenceSpec, ...]], bank: Bank) -> set[str]:
    """Return the names of those that need classes held out, where there are none to choose between."""
    if len(bank.class_pools["holdout"]) >= 2:
        return set()
    return {name for name, specs in available.items() if any(spec.classes == "holdout" for spec in specs)}


def _find_short(available: dict[str, tuple[SequenceSpec, ...]], bank: Bank) -> set[str]:
    """Return the names of those whose places are all of different classes, more than the bank has."""
    n_train = len(bank.class_pools["train"])
    return {
        name
        for name, specs in available.items()
        for spec in specs
        if name != TRAIN_SPLIT
        and spec.fillers == "different"
        and spec.classes == "train"
        and n_train < spec.n_slots()
    }
