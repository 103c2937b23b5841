"""A look into the attention of any backbone while it runs, one layer and one batch at a time.

Where a family looks its attention up by name, as most of transformers do, it gets a function of ours, with
its mask: the family's own plain attention, before and after which a visitor may look at, and change, what
goes in and out. Other families compute plain attention and show their patterns, and outputs can be changed on
the way into the output projection.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from hf_icl.errors import ConfigError
from hf_icl.models import ICLModel
from hf_icl.models.families import OWN_ATTENTION

VISITED = "hf_icl_visited"  # what attention is called while it is visited
PLAIN = "eager_attention_forward"  # in a family's own file


class Visitor:
    """Looks at attention, layer by layer; what it returns is used on.

    Attributes:
        needs_parts: Whether queries, keys, values or patterns may come back changed, which families that
            write their attention out themselves cannot have.
    """

    needs_parts = False

    def take_parts(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value, each (batch, heads, places, head width); keys and values may have
        fewer heads."""
        return query, key, value

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        """Return the attention, (batch, heads, query places, key places)."""
        return pattern

    def take_output(self, layer: int, output: Tensor) -> Tensor:
        """Return what heads give, before the output projection, (batch, places, heads, head width)."""
        return output


# By attention module, those that came first first.
_VISITORS: WeakKeyDictionary[nn.Module, tuple[Visitor, ...]] = WeakKeyDictionary()


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options
) -> tuple[Tensor, Tensor]:
    """What visited models call for attention: the plain one of the module's own family, with its visitors."""
    plain, layer = _find_plain(type(module)), module.layer_idx
    visitors = _VISITORS.get(module, ())  # none: a copy of a model, made while it was visited
    for visitor in visitors:
        query, key, value = visitor.take_parts(layer, query, key, value)
    output, pattern = plain(module, query, key, value, attention_mask, **options)
    used = pattern
    for visitor in visitors:
        used = visitor.take_pattern(layer, used)
    if used is not pattern:
        shared = value.repeat_interleave(used.shape[1] // value.shape[1], dim=1)
        output = (used.to(value.dtype) @ shared).transpose(1, 2)
    for visitor in visitors:
        output = visitor.take_output(layer, output)
    return output, used


AttentionInterface.register(VISITED, _attend)
AttentionMaskInterface.register(VISITED, eager_mask)  # without it, models would see the future


@contextlib.contextmanager
def visit(model: nn.Module, visitor: Visitor) -> Iterator[None]:
    """Let a visitor look into every layer of a model, at each forward pass in this context.

    The model computes attention in plain steps meanwhile, so that its answers may differ in rounding (by 1e-6
    of small float32 models; by 1e-3 of large ones), and goes back to its own implementation afterwards. A
    visit within another's sees what the other has changed.

    Args:
        model: An `ICLModel`, any model of transformers, or one that peft wraps.
        visitor: What looks.

    Raises:
        ConfigError: If the model has no attention that can be looked into, or not as the visitor needs it.

    >>> from hf_icl.models import ICLConfig
    >>> import torch
    >>> class Shapes(Visitor):
    ...     def take_pattern(self, layer, pattern):
    ...         print(layer, tuple(pattern.shape))
    ...         return pattern
    >>> model = ICLModel(ICLConfig(n_labels=3, n_context=2, exemplar_shape=(5,)))
    >>> with visit(model, Shapes()):
    ...     output = model(torch.zeros(7, 3, 5), torch.zeros(7, 2, dtype=torch.int64))
    0 (7, 8, 3, 3)
    1 (7, 8, 3, 3)
    """
    backbone = find_backbone(model)
    if backbone.config.model_type in OWN_ATTENTION:
        with _visit_own(backbone, visitor):
            yield
        return
    modules = find_attention(backbone)
    before = backbone.config._attn_implementation
    others = {module: _VISITORS.get(module, ()) for module in modules}
    backbone.set_attn_implementation(VISITED)
    _VISITORS.update({module: (*first, visitor) for module, first in others.items()})
    try:
        yield
    finally:
        _VISITORS.update(others)
        backbone.set_attn_implementation(before)


def find_backbone(model: nn.Module) -> PreTrainedModel:
    """Return the model that has the attention: what an `ICLModel`, peft or a language-model head wraps."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.backbone if isinstance(model, ICLModel) else model.base_model


def check_heads(model: nn.Module) -> None:
    """Raise `ConfigError` if a model has no heads that can be looked into."""
    if shows_parts(model):
        find_attention(find_backbone(model))


def shows_parts(model: nn.Module) -> bool:
    """Return whether a model lets visitors change queries, keys, values and patterns."""
    return find_backbone(model).config.model_type not in OWN_ATTENTION


def find_attention(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return the attention modules of a backbone that looks attention up by name, in order.

    Raises:
        ConfigError: If there is none.
    """
    found = [
        module
        for module in backbone.modules()
        if "Attention" in type(module).__name__
        and hasattr(module, "layer_idx")
        and _find_plain(type(module)) is not None
    ]
    if not found:
        rule = "has no attention that hf_icl can look into, so there are no heads to measure"
        hint = "Take a transformer such as GPT-2 or Llama, or leave the heads out."
        raise ConfigError("model", type(backbone).__name__, rule, hint)
    return found


def _find_plain(kind: type[nn.Module]) -> Callable | None:
    """Return the plain attention in the file of a module's class, or of one that it is made from."""
    files = (sys.modules.get(one.__module__) for one in kind.__mro__)
    return next((getattr(file, PLAIN) for file in files if hasattr(file, PLAIN)), None)


@contextlib.contextmanager
def _visit_own(backbone: PreTrainedModel, visitor: Visitor) -> Iterator[None]:
    """Visit a family that writes its attention out itself."""
    kind, config = backbone.config.model_type, backbone.config
    if visitor.needs_parts:
        rule = f"{kind} shows patterns, but lets nobody change queries, keys, values or patterns"
        raise ConfigError("model", type(backbone).__name__, rule, "Ablate heads without keeping anything.")
    changes_output = type(visitor).take_output is not Visitor.take_output
    projections = _find_projections(backbone) if changes_output else []
    before, config._attn_implementation = config._attn_implementation, "eager"
    hooks = [
        backbone.register_forward_pre_hook(_ask_for_patterns, with_kwargs=True),
        backbone.register_forward_hook(partial(_show_patterns, visitor)),
    ]
    for layer, projection in enumerate(projections):
        change = partial(_change_output, visitor, layer, config.num_attention_heads)
        hooks.append(projection.register_forward_pre_hook(change))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        config._attn_implementation = before


def _ask_for_patterns(backbone: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, kwargs | {"output_attentions": True}


def _show_patterns(visitor: Visitor, backbone: nn.Module, args: tuple, output) -> None:
    for layer, pattern in enumerate(output.attentions):
        visitor.take_pattern(layer, pattern)


def _find_projections(backbone: PreTrainedModel) -> list[nn.Module]:
    ending = OWN_ATTENTION[backbone.config.model_type]
    if ending is None:
        rule = "no module of its own maps its heads' outputs on, so none can be ablated"
        raise ConfigError("model", type(backbone).__name__, rule, "Take another family.")
    return [module for name, module in backbone.named_modules() if name.endswith(f".{ending}")]


def _change_output(visitor: Visitor, layer: int, n_heads: int, projection: nn.Module, args: tuple) -> tuple:
    (flat,) = args
    return (visitor.take_output(layer, flat.unflatten(-1, (n_heads, -1))).flatten(-2),)
