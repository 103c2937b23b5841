"""Which revisions of a series are measured: all that are known, those of a pattern, those of a list."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from hf_icl.errors import ConfigError
from hf_icl.hub.target import space_geometrically
from hf_icl.traces.names import EXAMPLE, Mark, compile_pattern, list_examples, read_match, read_name

MAIN = "main"
MOST_SHOWN = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is measured, and what is not.

    Attributes:
        marks: Names to what they say, by stage and rising step.
        left_out: Other names that somebody might look for, to why they are left out.
    """

    marks: dict[str, Mark]
    left_out: dict[str, str]


def choose(names: Iterable[str], wanted: str | Sequence[str] | None = None) -> Choice:
    r"""Return which revisions are wanted, and where in training they stand.

    Args:
        names: All that there are.
        wanted: None: all whose names are of a known form. Text with a group `(?P<step>…)`: a regular
            expression for whole names, with groups step, and perhaps tokens and stage. Text with `*`, `?` or
            `[`: a pattern as a shell takes it. Else names, a list or text with commas between them, each of
            a known form or written NAME=STEP.

    Raises:
        ConfigError: If nothing is left, or a name that was asked for tells no step.

    >>> choose(["main", "step10", "step2"]).marks
    {'step2': Mark(step=2, tokens=None, stage=''), 'step10': Mark(step=10, tokens=None, stage='')}
    >>> choose(["v1", "v2"], "v1=100,v3").left_out
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: revisions = 'v3': its name tells no step. Write v3=STEP.
    >>> choose(["iter5", "x"], r"iter(?P<step>\d+)").marks
    {'iter5': Mark(step=5, tokens=None, stage='')}
    """
    names = sorted(names)
    if wanted is None:
        marks, left_out = _sort_by_rules(names)
    elif not isinstance(wanted, str) or not re.search(r"[*?[]|\(\?P<", wanted):
        marks, left_out = _take_list(names, wanted)
    elif "(?P<" in wanted:
        pattern = compile_pattern(wanted)
        found = {name: pattern.fullmatch(name) for name in names}
        marks, left_out = {name: read_match(match) for name, match in found.items() if match}, {}
    else:
        marks, left_out = _sort_by_rules([name for name in names if fnmatchcase(name, wanted)])
    if not marks:
        raise _refuse(names, wanted)
    return _leave_doubtful(marks, left_out, told=wanted is not None)


def _refuse(names: Sequence[str], wanted: str | Sequence[str] | None) -> ConfigError:
    shown = ", ".join(names[:MOST_SHOWN]) + (" …" if len(names) > MOST_SHOWN else "")
    if wanted is None:
        rule = f"none of the {len(names)} revisions ({shown or 'none'}) is named in a known form"
    else:
        rule = f"tells the step of none of the {len(names)} revisions ({shown or 'none'})"
    hint = f"Give a pattern with named groups, such as '{EXAMPLE}', or a list NAME=STEP,NAME=STEP. Known "
    return ConfigError("revisions", wanted, rule, f"{hint}forms: {list_examples()}.")


def _sort_by_rules(names: Iterable[str]) -> tuple[dict[str, Mark], dict[str, str]]:
    found = {name: read_name(name) for name in names}
    marks = {name: mark for name, mark in found.items() if mark is not None}
    odd = {name: "its name is of no known form" for name in found if name not in marks and name != MAIN}
    return marks, odd


def _take_list(names: Sequence[str], wanted: str | Sequence[str]) -> tuple[dict[str, Mark], dict[str, str]]:
    words = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    marks: dict[str, Mark] = {}
    left_out: dict[str, str] = {}
    for word in words:
        name, _, step = word.rpartition("=")
        told = bool(name) and word not in names and re.fullmatch("[0-9]{1,15}", step)
        name = name if told else word
        mark = Mark(int(step)) if told else read_name(name)
        if mark is None:
            raise ConfigError("revisions", name, "its name tells no step", f"Write {name}=STEP.")
        if name in names:
            marks[name] = mark
        else:
            left_out[name] = "there is no such revision"
    return marks, left_out


def _leave_doubtful(marks: Mapping[str, Mark], left_out: dict[str, str], *, told: bool) -> Choice:
    """Leave out what has another's step, and names without a stage among others that have one."""
    kept: dict[str, Mark] = {}
    takes: dict[tuple[str, int], str] = {}
    has_stages = not told and any(mark.stage for mark in marks.values())
    for name, mark in sorted(marks.items(), key=lambda item: (item[1].stage, item[1].step, item[0])):
        if has_stages and not mark.stage:
            left_out[name] = "its name tells no stage, and others do: name it in a pattern or a list"
        elif (mark.stage, mark.step) in takes:
            left_out[name] = f"is of step {mark.step:,}, as {takes[mark.stage, mark.step]} is"
        else:
            kept[name] = mark
            takes[mark.stage, mark.step] = name
    return Choice(kept, left_out)


def thin_out(marks: Mapping[str, Mark], most: int | None) -> dict[str, Mark]:
    """Return of each stage so many revisions or fewer, the first and the last, and ever further apart.

    >>> marks = {f"step{step}": Mark(step) for step in range(1, 1001)}
    >>> list(thin_out(marks, 4))
    ['step1', 'step10', 'step100', 'step1000']
    """
    if most is None:
        return dict(marks)
    kept: dict[str, Mark] = {}
    for stage in dict.fromkeys(mark.stage for mark in marks.values()):
        names = {mark.step: name for name, mark in marks.items() if mark.stage == stage}
        steps = sorted(names) if len(names) <= most else space_geometrically(sorted(names), most)
        kept |= {names[step]: marks[names[step]] for step in steps}
    return kept
