"""Configs that check themselves: frozen pydantic models whose errors name field, value, rule and way out.

Layering is defaults, then a preset or YAML file, then `key=value` words of the command line. Unknown keys are
errors that name the nearest known one.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import pydantic

from hf_icl import reading
from hf_icl.errors import ConfigError
from hf_icl.wording import MASK, mask

MOST = 1e30  # of real numbers: fp32 holds its squares' roots, and little more
MOST_STEPS = 10**12
MOST_CLASSES = 1 << 24
MOST_EXEMPLARS = 1 << 20  # of a class
MOST_CHARACTERS = 4096  # of text
MOST_PARTS = 10_000  # of nested settings that are not ours


class Config(pydantic.BaseModel):
    """Base of all configs: immutable, strict about keys, and raising `ConfigError`.

    Subclasses declare fields with `pydantic.Field(default, ge=…, description=…)` and put rules that join
    several fields into a `model_validator(mode="after")` that raises `ConfigError`.

    >>> class Point(Config):
    ...     x: int = pydantic.Field(default=0, ge=0, description="Steps to the right.")
    >>> Point(x=3).x
    3
    >>> Point(y=3)
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: y = 3: unknown key. Known here: x.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=MOST_CHARACTERS
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _tell_kinds_apart(cls, values: Any) -> Any:
        """True is no 1 here, and neither is "yes" or "1": pydantic would take one for the other."""
        for name, value in values.items() if isinstance(values, dict) else ():
            if field := cls.model_fields.get(name):
                _check_kind(name, field.annotation, value)
        return values

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _first_error(type(self), error) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again (`model_copy` would not check)."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, every default written out."""
        return self.model_dump(mode="json")


def _check_kind(field: str, annotation: Any, value: Any) -> None:
    """Raise `ConfigError` where a truth, a number or text stands for another of them."""
    if isinstance(value, list | tuple):
        for item in _list_items(annotation):
            for number, each in enumerate(value):
                _check_kind(f"{field}.{number}", item, each)
        return
    kinds = _list_kinds(annotation)
    if isinstance(value, bool | str) and kinds & {int, float} and type(value) not in kinds:
        raise ConfigError(field, value, "must be a number")
    if kinds == {bool} and not isinstance(value, bool | None):
        raise ConfigError(field, value, "must be true or false")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(field, value, "must hold no null character")


@functools.cache
def _list_kinds(annotation: Any) -> frozenset[type]:
    """Return which of bool, int, float and str an annotation mentions outside of containers; str for texts
    to choose from."""
    if annotation in (bool, int, float, str):
        return frozenset({annotation})
    if get_origin(annotation) is Literal:
        return frozenset(map(type, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return frozenset().union(*map(_list_kinds, get_args(annotation)[: _count_types(annotation)]))
    return frozenset()


@functools.cache
def _list_items(annotation: Any) -> tuple[Any, ...]:
    """Return the annotations of what the lists that an annotation allows may hold."""
    if get_origin(annotation) in (tuple, list):
        return tuple(part for part in get_args(annotation) if part is not Ellipsis)
    if get_origin(annotation) in (Union, UnionType, Annotated):
        parts = get_args(annotation)[: _count_types(annotation)]
        return tuple(item for part in parts for item in _list_items(part))
    return ()


def _count_types(annotation: Any) -> int | None:
    return 1 if get_origin(annotation) is Annotated else None  # what follows says more of that type


def check_plain(tree: Any) -> Any:
    """Return nested mappings and lists as they are; that they are such is not asked here.

    Raises:
        ConfigError: If a number in them is not finite, text holds a null character, or they hold too much.

    >>> check_plain({"a": [1.0, {"b": float("nan")}]})
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: a.1.b = nan: must be a finite number.
    """
    waiting: list[tuple[str, Any]] = [("", tree)]
    for field, value in waiting:
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if _is_list(value) else ()
        waiting += [(f"{field}.{key}".lstrip("."), item) for key, item in items]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(field, value, "must be a finite number")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(field, value, "must be a number of less than 64 bits")
        if isinstance(value, str) and ("\0" in value or len(value) > MOST_CHARACTERS):
            raise ConfigError(
                field, value, f"must be text of up to {MOST_CHARACTERS:,} characters, none null"
            )
        if len(waiting) > MOST_PARTS:
            raise ConfigError(field, value, f"has more than {MOST_PARTS:,} parts")
    return tree


def refuse_secrets(tree: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a key or a value looks like a token or password: settings are written into
    every record of a run, and published with it.

    >>> refuse_secrets({"source": "https://me:secret@hub/x"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: source = 'https://***@hub/x': looks like a token or password. It would ...
    """
    waiting: list[tuple[str, Any]] = [("", tree)]
    for field, value in waiting:
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if _is_list(value) else ()
        waiting += [(f"{field}.{key}".lstrip("."), item) for key, item in items]
        name = field.rpartition(".")[2]
        if isinstance(value, str) and (mask(value) != value or mask(f"{name}={value}") != f"{name}={value}"):
            shown = mask(value) if mask(value) != value else MASK
        elif mask(field) != field:
            field, shown = mask(field), value
        else:
            continue
        hint = "It would stand in every record. Log in with: hf auth login"
        raise ConfigError(field, shown, "looks like a token or password", hint)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


PlainMapping = Annotated[dict[str, pydantic.JsonValue], pydantic.BeforeValidator(check_plain)]
"""Settings of another library, as JSON has them."""

Step = Annotated[int, pydantic.Field(ge=0, le=MOST_STEPS)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
"""Of a run: numpy and transformers take no larger ones."""


def _first_error(model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> ConfigError:
    """Translate what pydantic found: of the members of a union,
    the one whose reading went furthest is meant."""
    return max(
        (_translate(model, details) for details in error.errors()), key=lambda found: found.field.count(".")
    )


def _translate(model: type[pydantic.BaseModel], details: Mapping[str, Any]) -> ConfigError:
    path, models = [], [model]
    for part in details["loc"]:
        if _is_union_member(part, models):
            continue
        path.append(str(part))
        if not isinstance(part, int):
            models = [m for owner in models if part in owner.model_fields for m in _models_in(owner, part)]
    field = ".".join(path)
    if isinstance(cause := details.get("ctx", {}).get("error"), ConfigError):
        return cause.within(field) if field else cause
    if details["type"] == "extra_forbidden":
        owner = _owner(model, path[:-1])
        return unknown_key(field, details["input"], owner.model_fields if owner else ())
    if details["type"] == "missing":
        return ConfigError(field, None, "this setting is required", "Give it a value.")
    rule = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return ConfigError(field, details["input"], rule)


def _is_union_member(part: str | int, models: list[type[pydantic.BaseModel]]) -> bool:
    """Pydantic names the union member that it tried, by class or `kind`;
    a reader's YAML has no such level."""
    kinds = {model.model_fields["kind"].default for model in models if "kind" in model.model_fields}
    return isinstance(part, str) and (
        "[" in part or part in kinds or part in {model.__name__ for model in models}
    )


def _models_in(owner: type[pydantic.BaseModel], field: str) -> list[type[pydantic.BaseModel]]:
    """Return all config classes that a field's annotation mentions."""
    found, waiting = [], [owner.model_fields[field].annotation]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            found.append(annotation)
        waiting.extend(get_args(annotation))
    return found


def _owner(model: type[pydantic.BaseModel], path: list[str]) -> type[pydantic.BaseModel] | None:
    """Return the class at the end of a path, where the path leaves no choice."""
    for part in path:
        nested = _models_in(model, part) if part in model.model_fields else []
        if len(nested) != 1:
            return None
        model = nested[0]
    return model


@contextlib.contextmanager
def name_part(field: str) -> Iterator[None]:
    """Name the part of a config in which a setting was found wrong.

    >>> with name_part("model"):
    ...     raise ConfigError("n_heads", 0, "must be 1 or more")
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: model.n_heads = 0: must be 1 or more.
    """
    try:
        yield
    except ConfigError as error:
        raise error if error.field.startswith(f"{field}.") else error.within(field) from error


def unknown_key(field: str, value: object, known: Iterable[str]) -> ConfigError:
    """Return the error for a key that no config has, with the nearest known key as the way out.

    >>> print(unknown_key("train.burts", 3, ["burst", "zipf"]))
    train.burts = 3: unknown key. Did you mean burst?
    """
    return ConfigError(field, value, "unknown key", suggest(field.rsplit(".", 1)[-1], known))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name nearest to `name`, or with all of them.

    >>> suggest("iwll", ["icl", "iwl"]), suggest("x", ["icl", "iwl"])
    ('Did you mean iwl?', 'Known here: icl, iwl.')
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}." if known else ""


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `top` laid over it, mapping by mapping; lists and scalars are replaced whole.

    A mapping with another `kind` replaces the one below it: its fields belong to another thing.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    if "kind" in top and top["kind"] != base.get("kind", top["kind"]):
        return dict(top)
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else value
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted name; a mapping without entries is a value.

    >>> flatten({"seed": 0, "versions": {"torch": "2.13"}, "arguments": {}})
    {'seed': 0, 'versions.torch': '2.13', 'arguments': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def list_differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return the dotted names under which two nested mappings differ, sorted; what is missing equals None.

    >>> list_differences({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}, "b": None})
    ['a.y']
    """
    one, two = flatten(left), flatten(right)
    return [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings, later ones laid over earlier ones.

    >>> nest({"train.burst": 2, "train": {"zipf": 1.0}})
    {'train': {'burst': 2, 'zipf': 1.0}}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Turn `key=value` words into a nested mapping; dots nest and values are YAML.

    >>> parse_overrides(["train.burst=2", "seed=1", "evaluators=[icl, iwl]"])
    {'train': {'burst': 2}, 'seed': 1, 'evaluators': ['icl', 'iwl']}
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError("command line", word, "settings are written key=value", "For example: seed=1")
        try:
            value = reading.parse_yaml(text)
        except ValueError as error:
            hint = "Quote the word, or close its brackets."
            raise ConfigError(key, text, f"the value {error}", hint) from error
        tree = merge(tree, nest({key: value}))
    return tree


def list_described(folder: Path) -> dict[str, str]:
    """Return the names of a folder's YAML files, each with its first comment line.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "small.yaml").write_text("# A small one.\\nseed: 1\\n")
    >>> list_described(folder)
    {'small': 'A small one.'}
    """
    files = sorted(folder.glob("*.yaml"))
    return {path.stem: path.read_text("utf-8").splitlines()[0].lstrip("# ") for path in files}


def read_yaml(path: Path, what: str, example: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: Which.
        what: What it should be, for the error, such as "config file".
        example: What one looks like, or where to find one.

    Raises:
        ConfigError: If it cannot be read, is no YAML, or holds no mapping.
    """
    try:
        tree = reading.read_yaml(path)
    except OSError as error:
        raise ConfigError(what, str(path), f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(what, str(path), str(error), "Mend the file.") from error
    if not isinstance(tree, dict):
        raise ConfigError(what, str(path), "must be a mapping of keys to values", example)
    return tree
