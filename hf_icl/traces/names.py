"""What the name of a revision says: its stage, its step, the tokens seen by then. Nothing is guessed.

No rule is common to public series of checkpoints, so each form is written down, and a name of another form
says nothing until somebody gives a pattern for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_icl.errors import ConfigError

STEP, TOKENS = "(?P<step>[0-9]{1,15})", "(?P<tokens>[0-9]{1,15}[MBT])"
UNITS = {"": 1, "M": 10**6, "B": 10**9, "T": 10**12}
MOST_TOKENS = 10**18
EXAMPLE = r"iter(?P<step>\d+)"


@dataclass(frozen=True)
class Mark:
    """Where in training a revision stands.

    Attributes:
        step: Its step, or its number where a series counts checkpoints.
        tokens: Tokens seen by then; None where they are not known. Names round them.
        stage: Which part of training the step is counted in; empty where there are no parts.
    """

    step: int
    tokens: int | None = None
    stage: str = ""


@dataclass(frozen=True)
class Rule:
    """A form in which series name their revisions.

    Attributes:
        series: Who does.
        pattern: A regular expression for whole names, with the groups step, and perhaps tokens and stage.
        example: Such a name.
    """

    series: str
    pattern: str
    example: str


RULES = (
    Rule("Pythia, PolyPythias", f"step{STEP}", "step1000"),
    Rule("OLMo, OLMoE", f"step{STEP}-tokens{TOKENS}", "step1000-tokens4B"),
    Rule(
        "OLMo 2",
        f"(?P<stage>stage[0-9]+(?:-ingredient[0-9]+)?)-step{STEP}-tokens{TOKENS}",
        "stage2-ingredient1-step1000-tokens5B",
    ),
    Rule("SmolLM2, hf-icl push", f"step-{STEP}", "step-240000"),
    Rule("SmolLM3", f"(?P<stage>stage[0-9]+)-step-{STEP}", "stage1-step-40000"),
    Rule("LLM360 Amber, which counts checkpoints", f"ckpt_{STEP}", "ckpt_355"),
    Rule("folders of a Trainer", f"checkpoint-{STEP}", "checkpoint-600"),
)
# Tokens of a step, of series that name only steps.
TOKENS_PER_STEP = {r"EleutherAI/pythia-[\w.-]+": 2_097_152}


def read_name(name: str) -> Mark | None:
    """Return what a name says by the rules of public series, None if it is of no known form.

    >>> read_name("step1000"), read_name("stage1-step-40000")
    (Mark(step=1000, tokens=None, stage=''), Mark(step=40000, tokens=None, stage='stage1'))
    >>> read_name("stage2-ingredient1-step1000-tokens5B")
    Mark(step=1000, tokens=5000000000, stage='stage2-ingredient1')
    >>> read_name("main"), read_name("step1000-final")
    (None, None)
    """
    for rule in RULES:
        if found := re.fullmatch(rule.pattern, name):
            return read_match(found)
    return None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a pattern with named groups, for whole names of revisions.

    Raises:
        ConfigError: If it is no regular expression, or has no group called step.
    """
    try:
        compiled = re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ConfigError("revisions", pattern, f"is no regular expression ({error})", "Mend it.") from error
    if "step" not in compiled.groupindex:
        rule = "has no group called step"
        raise ConfigError("revisions", pattern, rule, f"For example: {EXAMPLE}")
    return compiled


def read_match(found: re.Match[str]) -> Mark:
    """Return what the groups of a match say: `step`, and `tokens` and `stage` where there are such.

    Raises:
        ConfigError: If a group holds no number.

    >>> read_match(re.fullmatch(r"(?P<stage>\\w+)/iter(?P<step>\\d+)", "warm/iter20"))
    Mark(step=20, tokens=None, stage='warm')
    """
    groups = found.groupdict()
    tokens = groups.get("tokens")
    return Mark(
        step=_read_number(found, "step", groups["step"]),
        tokens=None if tokens is None else _read_tokens(found, tokens),
        stage=groups.get("stage") or "",
    )


def _read_tokens(found: re.Match[str], text: str) -> int:
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    if unit not in UNITS:
        rule = f"the group tokens ends in {text[-1:]!r}"
        raise ConfigError("revisions", found.string, rule, "Numbers may end in M, B or T.")
    return _read_number(found, "tokens", text[: len(text) - len(unit)]) * UNITS[unit]


def _read_number(found: re.Match[str], group: str, text: str | None) -> int:
    if text is None or not re.fullmatch("[0-9]{1,15}", text):
        rule = f"the group {group} holds {text!r}, which is no number"
        raise ConfigError("revisions", found.string, rule, f"For example: {EXAMPLE}")
    return int(text)


def find_tokens_per_step(source: str) -> int | None:
    """Return the tokens of a step in a repository whose names tell steps alone, None where it is not known.

    >>> find_tokens_per_step("EleutherAI/pythia-70m"), find_tokens_per_step("me/pythia-70m")
    (2097152, None)
    """
    return next((count for form, count in TOKENS_PER_STEP.items() if re.fullmatch(form, source)), None)


def list_examples() -> str:
    """Return a name of each known form, for a message."""
    return ", ".join(rule.example for rule in RULES)
