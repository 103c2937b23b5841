"""The direct path: what the places bring along reaches the head past all layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import pydantic
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_icl.circuits.attention import find_backbone
from hf_icl.config import Config
from hf_icl.errors import ConfigError
from hf_icl.models.families import FINAL_NORM


class DirectPath(Config):
    """The path from the embeddings, positions included, to the last norm and the head: alone, or left out.

    >>> DirectPath(part="only").part
    'only'
    """

    part: Literal["only", "without"] = pydantic.Field(
        description="only: what layers add is left out; without: only what they add is left."
    )


@contextlib.contextmanager
def cut(model: nn.Module, path: DirectPath) -> Iterator[None]:
    """Let the last norm see the stream as it enters the first block, or the rest of it without that.

    Raises:
        ConfigError: If the backbone's blocks and last norm are not found.
    """
    blocks, norm = find_ends(find_backbone(model))
    start: list[Tensor] = []

    def keep(block: nn.Module, args: tuple, kwargs: dict) -> None:
        start[:] = [args[0] if args else kwargs["hidden_states"]]

    def change(norm: nn.Module, args: tuple) -> tuple:
        first = start[0][:, -args[0].shape[1] :]  # the native network may bring the last place alone
        return (first if path.part == "only" else args[0] - first, *args[1:])

    hooks = [
        blocks[0].register_forward_pre_hook(keep, with_kwargs=True),
        norm.register_forward_pre_hook(change),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def has_path(model: nn.Module) -> bool:
    """Return whether both ends of a model's stream are found, so that the path can be cut."""
    try:
        find_ends(find_backbone(model))
    except ConfigError:
        return False
    return True


def find_ends(backbone: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module]:
    """Return the list of a backbone's blocks, and the norm after them."""
    for name, blocks in backbone.named_modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            beside = backbone.get_submodule(name.rpartition(".")[0]).named_children()
            norms = [module for key, module in beside if FINAL_NORM.fullmatch(key)]
            if len(norms) == 1:
                return blocks, norms[0]
            break
    rule = "its blocks, and one last norm after them, are not found"
    raise ConfigError("model", type(backbone).__name__, rule, "Take another family, or leave the path out.")
