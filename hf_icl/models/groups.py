"""Named groups of parameters, so that a regulariser can be put on one part of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from hf_icl.errors import ConfigError
from hf_icl.models.families import ATTENTION, MLP

GROUPS = ("mlp", "attention", "embeddings", "encoder", "head", "norm", "other")

# Parts of a wrapped model by the first word of the parameter's name.
_WRAPPER_GROUPS = {"label_embedding": "embeddings", "exemplar_encoder": "encoder", "head": "head"}


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Split the trainable parameters of an `ICLModel` into named groups.

    Args:
        model: An `ICLModel` over any backbone.

    Returns:
        Group to parameter names as `named_parameters` gives them. All of `GROUPS` are there, some may be
        empty; every trainable parameter is in exactly one. "mlp" and "attention": linear maps of the
        backbone's blocks; "embeddings": labels, learned positions, token tables; "encoder": what turns an
        exemplar into a vector, its norms included; "head": the map to label logits; "norm": scales and
        offsets of the backbone's norms. A tied label table counts once, among the embeddings. Frozen
        parameters are in none.

    >>> from hf_icl.models import ICLConfig, ICLModel
    >>> parameter_groups(ICLModel(ICLConfig()))["head"]
    ['head.weight', 'head.bias']
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.rpartition(".")[0]
            groups[_find_group(path, modules[path])].append(name)
    return groups


def find_parameters(
    model: nn.Module, groups: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> list[str]:
    """Return the names of the trainable parameters that are in some groups and in some of the blocks.

    Args:
        model: As for `parameter_groups`.
        groups: Names among `GROUPS`; None: all.
        layers: Blocks, counted from 0; None: all, and what is in none.

    Raises:
        ConfigError: If a group or layer that is named has none.

    >>> from hf_icl.models import ICLConfig, ICLModel
    >>> find_parameters(ICLModel(ICLConfig()), ["attention"], [1])[0]
    'backbone.blocks.1.attention.qkv.weight'
    """
    known = parameter_groups(model)
    named = [name for group in groups or GROUPS for name in known[group]]
    layer_of = {name: _find_layer(name) for name in named}
    for field, values, there in (
        ("groups", groups or (), {group for group, names in known.items() if names}),
        ("layers", layers or (), set(layer_of.values()) - {None}),
    ):
        if lacking := [value for value in values if value not in there]:
            rule = "this model has no such parameters there"
            hint = f"There are {', '.join(map(str, sorted(there)))}." if there else ""
            raise ConfigError(field, lacking[0], rule, hint)
    return [name for name in named if layers is None or layer_of[name] in layers]


def _find_layer(name: str) -> int | None:
    """Return the block that a parameter is in: the first number in its name, but for encoders' own."""
    found = re.search(r"\.(\d+)\.", name)
    return None if found is None or name.split(".")[0] in _WRAPPER_GROUPS else int(found[1])


def _find_group(path: str, module: nn.Module) -> str:
    part = path.split(".")[0]
    if part in _WRAPPER_GROUPS:
        return _WRAPPER_GROUPS[part]
    if "Norm" in type(module).__name__:
        return "norm"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if ATTENTION.search(path):
        return "attention"
    return "mlp" if MLP.search(path) else "other"
