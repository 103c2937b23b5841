"""The presets: a YAML file for each, its first line says what it is,
the next ones where each setting was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_icl.config import list_described, read_yaml, suggest
from hf_icl.errors import ConfigError
from hf_icl.runs.layers import lay

FOLDER = Path(__file__).parent


def list_presets() -> dict[str, str]:
    """Return the presets' names, each with its first comment line."""
    return list_described(FOLDER)


def read_source(source: str) -> dict[str, Any]:
    """Return the settings of a preset or a YAML file, laid over those of the preset that it names as its
    base.

    Raises:
        ConfigError: If there is no such preset or file, or it cannot be read.
    """
    path = FOLDER / f"{source}.yaml"
    if source not in list_presets():
        path = Path(source)
        if path.suffix not in (".yaml", ".yml"):
            rule = "neither a preset nor a .yaml file"
            raise ConfigError("preset", source, rule, suggest(source, list_presets()))
    tree = read_yaml(path, "config file", "See: hf-icl presets")
    if "preset" in tree:
        return lay(read_source(str(tree.pop("preset"))), tree)
    return tree
