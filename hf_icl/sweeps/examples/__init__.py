"""The sweeps that come with the package: a YAML file for each, its first line says what it asks."""

from __future__ import annotations

from pathlib import Path

from hf_icl.config import list_described, suggest
from hf_icl.errors import ConfigError

FOLDER = Path(__file__).parent


def list_examples() -> dict[str, str]:
    """Return the names of the sweeps that come with the package, each with its first comment line."""
    return list_described(FOLDER)


def find_sweep(source: str | Path) -> Path:
    """Return the file of a sweep: of one that comes with the package by its name, else the path itself.

    Raises:
        ConfigError: If it is neither such a name nor the name of a YAML file.

    >>> find_sweep("l2").name, find_sweep("mine.yaml").name
    ('l2.yaml', 'mine.yaml')
    >>> find_sweep("l")
    Traceback (most recent call last):
        ...
    hf_icl.errors.ConfigError: sweep = 'l': neither an example nor a .yaml file. Did you mean l2?
    """
    if str(source) in list_examples():
        return FOLDER / f"{source}.yaml"
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        rule = "neither an example nor a .yaml file"
        raise ConfigError("sweep", str(source), rule, suggest(str(source), list_examples()))
    return path
