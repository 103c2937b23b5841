"""Trainer state as plain data, so that a run that comes from the Hub resumes without anything pickled being
loaded.

transformers keeps optimizer, scheduler and random states in files of torch.save. Here each becomes a JSON
file that holds the structure and a safetensors file that holds the tensors, and back.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

from hf_icl.errors import RunError
from hf_icl.reading import read_json
from hf_icl.training.checkpoints import read_any_numpy

MOST_STATE_BYTES = 1 << 28  # of the structure of an optimizer: some 200 bytes a tensor
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")


def write_plain(source: Path, target: Path) -> None:
    """Turn a file of torch.save into `target.json` and `target.safetensors`.

    Raises:
        RunError: If it holds something that is neither a tensor, an array, nor plain data.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_globals(), read_any_numpy():
            value = torch.load(source, map_location="cpu", weights_only=True)
        skeleton = to_plain(value, tensors)
    except (TypeError, UnpicklingError) as error:
        said = str(error).strip().splitlines()[0]
        raise RunError(f"{source}: cannot be published as plain data ({said}).") from error
    _beside(target, ".json").write_text(json.dumps(skeleton))
    safetensors.torch.save_file(tensors, _beside(target, ".safetensors"))


def read_plain(source: Path, target: Path) -> None:
    """Turn `source.json` and `source.safetensors` back into a file of torch.save.

    Raises:
        RunError: If the two are not what `write_plain` writes.
    """
    try:
        skeleton = read_json(_beside(source, ".json"), MOST_STATE_BYTES)
        value = from_plain(skeleton, safetensors.torch.load_file(_beside(source, ".safetensors")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise RunError(f"{source}: not a trainer state ({error}). Pull the run again.") from error
    torch.save(value, target)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def to_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the structure of nested data as JSON types, and put its tensors and arrays into `tensors`.

    >>> tensors = {}
    >>> to_plain({"lr": 0.1, "state": {0: (torch.ones(2), None)}}, tensors)
    {'dict': [['lr', 0.1], ['state', {'dict': [[0, {'tuple': [{'tensor': '0'}, None]}]]}]]}
    >>> tensors
    {'0': tensor([1., 1.])}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        name, kind = str(len(tensors)), "tensor" if isinstance(value, Tensor) else "array"
        tensors[name] = torch.as_tensor(value).detach().cpu().clone().contiguous()
        return {kind: name}
    if isinstance(value, dict):
        return {"dict": [[to_plain(key, tensors), to_plain(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [to_plain(item, tensors) for item in value]}
    raise TypeError(f"holds a {type(value).__name__}")


def from_plain(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `to_plain` took apart.

    >>> from_plain({"dict": [["a", {"list": [{"tensor": "0"}, 1]}]]}, {"0": torch.zeros(1)})
    {'a': [tensor([0.]), 1]}
    """
    if not isinstance(skeleton, dict):
        return skeleton
    (kind, content), *more = skeleton.items()
    if more:
        raise ValueError(f"unknown structure {sorted(skeleton)}")
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "dict":
            return {from_plain(key, tensors): from_plain(item, tensors) for key, item in content}
        case "list":
            return [from_plain(item, tensors) for item in content]
        case "tuple":
            return tuple(from_plain(item, tensors) for item in content)
    raise ValueError(f"unknown structure {kind!r}")
