"""The presets: a YAML file for each, its first line says what it is,
the next ones where each setting was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_icl.config import list_described, read_yaml, suggest
from hf_icl.errors import ConfigError
from hf_icl.runs.layers import lay

FOLDER = Path(__file__).parent
MOST_LAYERS = 50


def list_presets() -> dict[str, str]:
    """Return the presets' names, each with its first comment line."""
    return list_described(FOLDER)


def read_source(source: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings of a preset or a YAML file, laid over those of the preset that it names as its
    base.

    Args:
        source: A preset's name, or a file's.
        above: What is laid over it: files by whole path.

    Raises:
        ConfigError: If there is no such preset or file, it cannot be read, or it is laid over itself.
    """
    path = FOLDER / f"{source}.yaml"
    if source not in list_presets():
        path = Path(source)
        if path.suffix not in (".yaml", ".yml"):
            rule = "neither a preset nor a .yaml file"
            raise ConfigError("preset", source, rule, suggest(source, list_presets()))
    whole = str(path.resolve())
    if whole in above or len(above) >= MOST_LAYERS:
        rule = "is laid over itself" if whole in above else f"is more than {MOST_LAYERS} layers down"
        chain = " ← ".join(Path(each).name for each in (*above[-3:], whole))
        raise ConfigError("preset", source, f"{rule} ({chain})", "Name another preset in one of them.")
    tree = read_yaml(path, "config file", "See: hf-icl presets")
    if "preset" in tree:
        return lay(read_source(str(tree.pop("preset")), (*above, whole)), tree)
    return tree
