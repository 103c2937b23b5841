"""Arms that graft layers of another arm's run of the same seed: `{kind: graft, source: "arm:NAME", …}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from hf_icl.config import suggest
from hf_icl.errors import ConfigError

MARK = "arm:"
Settings = dict[str, JsonValue]


def find_sources(settings: JsonValue) -> tuple[str, ...]:
    """Return the arms from whose runs an arm's settings take something, each once.

    >>> find_sources({"training.interventions": [{"kind": "graft", "layers": [1], "source": "arm:base"}]})
    ('base',)
    """
    return tuple(dict.fromkeys(_walk(settings)))


def _walk(value: JsonValue) -> Iterator[str]:
    if isinstance(value, Mapping):
        if (name := _read_source(value)) is not None:
            yield name
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _walk(item)


def put_sources(value: JsonValue, places: Mapping[str, str]) -> JsonValue:
    """Return settings in which sources of grafts are others: name of arm to what stands there instead.

    >>> put_sources([{"kind": "graft", "source": "arm:base"}], {"base": "runs/base,seed=0"})
    [{'kind': 'graft', 'source': 'runs/base,seed=0'}]
    """
    if isinstance(value, list):
        return [put_sources(item, places) for item in value]
    if not isinstance(value, Mapping):
        return value
    changed = {key: put_sources(item, places) for key, item in value.items()}
    if (name := _read_source(value)) is not None:
        changed["source"] = places[name]
    return changed


def _read_source(value: Mapping[str, JsonValue]) -> str | None:
    """Return the arm that a graft takes from; None of anything else."""
    source = value.get("source")
    is_arm = value.get("kind") == "graft" and isinstance(source, str) and source.startswith(MARK)
    return source.removeprefix(MARK) if is_arm else None


def check_sources(arms: Mapping[str, Settings], scale: str) -> None:
    """Raise `ConfigError` if an arm takes something from one that is not there, or in the end from itself.

    Args:
        arms: Each one's settings at the scale.
        scale: Its name.
    """
    sources = {arm: find_sources(settings) for arm, settings in arms.items()}
    for arm, names in sources.items():
        for name in names:
            if name not in arms:
                rule = f"the claim has no such arm, at scale {scale}"
                raise ConfigError(f"arms.{arm}.source", MARK + name, rule, suggest(name, arms))
    for arm in sources:
        if circle := _find_circle(sources, [arm]):
            rule = f"arms wait for one another: {' takes from '.join(circle)}"
            hint = "Take from an arm that takes from none of these."
            raise ConfigError(f"arms.{circle[0]}.source", MARK + circle[1], rule, hint)


def _find_circle(sources: Mapping[str, tuple[str, ...]], path: list[str]) -> list[str] | None:
    for name in sources[path[-1]]:
        if name in path:
            return [*path[path.index(name) :], name]
        if circle := _find_circle(sources, [*path, name]):
            return circle
    return None
