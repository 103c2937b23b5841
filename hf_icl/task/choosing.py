"""Which form a task's sequences reach a model in."""

from __future__ import annotations

from collections.abc import Iterable

from hf_icl.banks.bank import Bank
from hf_icl.errors import ConfigError
from hf_icl.sequences.spec import SequenceSpec
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
