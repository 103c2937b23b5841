"""Count a training step's FLOPs and live bytes, operation by operation,
on real tensors or on ones without memory."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensorMode,  # described in torch's own docs, under this private name
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# FLOPs by operation: torch's own counts, and the fused attention of CPUs, which torch counts for GPUs alone.
# Both count all places, causal or not.
_FLOPS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *args, **kwargs: (
        sdpa_flop_count(query.shape, key.shape, value.shape)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *args, **kwargs: sdpa_backward_flop_count(
            gradient.shape, query.shape, key.shape, value.shape
        )
    ),
}


@dataclass(frozen=True)
class StepCost:
    """What one part of an optimizer step costs on one device:
    forward and backward over the sequences of one part.

    Attributes:
        flops: Of matrix products, convolutions and attention; a multiplication and an addition are 2.
        activations: Bytes alive when the forward pass is over, inputs and low-precision copies of weights
            included.
        peak: Most bytes alive at once beside weights and optimizer state: activations, then gradients in
            their place.
        peak_activations: The same without gradients and without low-precision copies of weights.
    """

    flops: int
    activations: int
    peak: int
    peak_activations: int


def without_memory() -> contextlib.AbstractContextManager:
    """Return a context in which tensors have shape, type and device but no memory,
    and operations compute nothing.

    Tensors of the `meta` device would do the same, but they choose other attention kernels, know no mixed
    precision, and transformers asks them for values.

    >>> with without_memory():
    ...     (torch.empty(10**6, 10**6) @ torch.empty(10**6, 2)).shape
    torch.Size([1000000, 2])
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


def leave_meta(model: nn.Module) -> None:
    """Put a model from torch's `meta` device onto the CPU, within `without_memory`; what is tied stays so."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        fresh = torch.empty_like(tensor, device="cpu")
        is_weight = isinstance(tensor, nn.Parameter)
        return nn.Parameter(fresh, requires_grad=tensor.requires_grad) if is_weight else fresh

    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    kept[name] = moved.setdefault(id(tensor), move(tensor))


def measure_step(
    model: nn.Module,
    encode: Callable[[], dict[str, Tensor]],
    *,
    accumulation: int = 1,
    dtype: torch.dtype | None = None,
) -> StepCost:
    """Count one part of an optimizer step, in training mode;
    with accumulation a part that finds gradients there.

    Args:
        model: Its forward must return a loss.
        encode: Returns the forward's arguments for the sequences of one part.
        accumulation: Parts per step.
        dtype: Of mixed precision (`torch.autocast`); None for none.

    >>> from hf_icl.models import ICLConfig, ICLModel
    >>> with without_memory():
    ...     model = ICLModel(ICLConfig(exemplar_shape=(64,), n_context=4))
    ...     labels = torch.zeros(8, 4, dtype=torch.int64)
    ...     inputs = dict(exemplars=torch.zeros(8, 5, 64), context_answers=labels)
    ...     cost = measure_step(model, lambda: inputs | {"labels": torch.zeros(8, dtype=torch.int64)})
    >>> cost.flops
    16661504
    """
    model.train()
    n_parts = min(accumulation, 2)
    with MemoryMeter(model) as meter:
        for _ in range(n_parts):
            inputs = encode()  # alive to the end, as a Trainer's are
            loss = _find_loss(model, inputs, dtype)
            activations = meter.live["activations"] + meter.live["copies"]
            loss.backward()
            del loss
    return StepCost(meter.flops // n_parts, activations, meter.peak, meter.peak_activations)


def measure_forward(
    model: nn.Module, predict: Callable[[], Tensor], *, dtype: torch.dtype | None = None
) -> tuple[int, int]:
    """Count one forward pass in evaluation mode, without gradients.

    Returns:
        FLOPs, and the most bytes alive at once beside weights and optimizer state.
    """
    model.eval()
    with torch.no_grad(), MemoryMeter(model) as meter, _autocast(dtype):
        predict()
    return meter.flops, meter.peak


def _find_loss(model: nn.Module, inputs: dict[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    with _autocast(dtype):
        return model(**inputs).loss


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", dtype=dtype, enabled=dtype is not None)


class MemoryMeter(TorchDispatchMode):
    """Follows every tensor storage that operations make, from first byte to last, and counts their FLOPs.

    Weights and buffers that the model has beforehand do not count. Scratch memory inside kernels is not seen.

    Attributes:
        live: Bytes alive now: "gradients" of weights, low-precision "copies" of weights, and "activations",
            all else.
        peak: Most bytes alive at once.
        peak_activations: Most bytes of "activations" alive at once.
        flops: Of all operations; see `StepCost`.

    >>> with torch.no_grad(), MemoryMeter(nn.Identity()) as meter:
    ...     total = torch.ones(3, 8).sum()
    >>> meter.live["activations"], meter.peak  # the sum; for a moment the 24 numbers too
    (4, 100)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.peak = self.peak_activations = self.flops = 0
        self._kinds: dict[int, str] = {}
        self._references: dict[int, weakref.ref] = {}
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        for tensor in [*model.parameters(), *model.buffers()]:
            self._enter(tensor, "model")

    def __enter__(self):
        """Begin to count."""
        self._hooks = [
            weight.register_post_accumulate_grad_hook(self._keep_gradient) for weight in self._weights
        ]
        return super().__enter__()

    def __exit__(self, *error):
        """Count no more."""
        for hook in self._hooks:
            hook.remove()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation and note what it made."""
        made = function(*args, **(kwargs or {}))
        if count := _FLOPS.get(function.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        is_copy = function is torch.ops.aten._to_copy.default and self._kind(args[0]) == "model"
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._enter(value, "copies" if is_copy else "activations")
        return made

    def _kind(self, tensor: Tensor) -> str | None:
        return self._kinds.get(id(tensor.untyped_storage()))

    def _enter(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._kinds:
            return
        self._kinds[key] = kind
        self._references[key] = weakref.ref(storage, lambda _: self._leave(key, size))
        self._add(kind, size)

    def _leave(self, key: int, size: int) -> None:
        self.live[self._kinds.pop(key)] -= size
        del self._references[key]

    def _add(self, kind: str, size: int) -> None:
        self.live[kind] += size
        self.peak = max(self.peak, self.live.total() - self.live["model"])
        self.peak_activations = max(self.peak_activations, self.live["activations"])

    def _keep_gradient(self, weight: Tensor) -> None:
        """File a gradient under its name, once it has reached its weight."""
        storage = weight.grad.untyped_storage()
        if self._kinds.get(id(storage)) == "activations":
            self.live["activations"] -= storage.nbytes()
            self._kinds[id(storage)] = "gradients"
            self._add("gradients", storage.nbytes())
