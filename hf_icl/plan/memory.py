"""Memory of one device in training: what each part of it holds, whole (DDP) or split over devices (FSDP)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hf_icl.plan.meter import StepCost


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by part; `total` is their sum.

    What the framework takes beside it (a CUDA context, libraries, the allocator's gaps) is not in it.

    Attributes:
        parameters: Weights and buffers.
        optimizer: AdamW's two moments of every trainable weight.
        step: The most that activations and gradients take at one time: in the backward pass gradients come as
            activations go. An evaluation's forward pass counts where it takes more.
        buckets: DDP's copies of all gradients, from which it sends.
        gathered: FSDP's whole copies of the parts at work.
        bank: Exemplars, which every device looks up by itself.
    """

    parameters: int
    optimizer: int
    step: int
    buckets: int
    gathered: int
    bank: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.parameters + self.optimizer + self.step + self.buckets + self.gathered + self.bank


@dataclass(frozen=True)
class ModelBytes:
    """Sizes of a model's parts in bytes.

    Attributes:
        weights: Weights and buffers.
        gradients: Of all trainable weights.
        optimizer: AdamW's state.
        root: Weights outside the blocks that FSDP gathers one by one.
        block: Weights of the largest such block; 0 where the model names none.
        n_blocks: How many there are.
    """

    weights: int
    gradients: int
    optimizer: int
    root: int
    block: int
    n_blocks: int


def size_model(model: nn.Module, optimizer: int) -> ModelBytes:
    """Measure a model's parts; the blocks are those that transformers says must not be split.

    >>> size_model(nn.Linear(9, 1), 88)
    ModelBytes(weights=40, gradients=40, optimizer=88, root=40, block=0, n_blocks=0)
    """
    names = getattr(model, "_no_split_modules", None) or ()
    blocks = [_count_bytes(part) for part in model.modules() if type(part).__name__ in names]
    whole = _count_bytes(model)
    return ModelBytes(
        weights=whole + sum(buffer.nbytes for buffer in model.buffers()),
        gradients=sum(weight.nbytes for weight in model.parameters() if weight.requires_grad),
        optimizer=optimizer,
        root=whole - sum(blocks),
        block=max(blocks, default=0),
        n_blocks=len(blocks),
    )


def _count_bytes(part: nn.Module) -> int:
    return sum(weight.nbytes for weight in part.parameters())


def replicated(sizes: ModelBytes, cost: StepCost, evaluation: int, bank: int, *, buckets: bool) -> Memory:
    """Return the memory of a device that holds the whole model: one alone, or each under DDP.

    DDP copies every gradient into a bucket and sends that (torch's default; `gradient_as_bucket_view` would
    save it).
    """
    return Memory(
        parameters=sizes.weights,
        optimizer=sizes.optimizer,
        step=max(cost.peak, evaluation),
        buckets=sizes.gradients if buckets else 0,
        gathered=0,
        bank=bank,
    )


def sharded(
    sizes: ModelBytes,
    cost: StepCost,
    evaluation: int,
    bank: int,
    *,
    n_devices: int,
    accumulation: int,
    half: bool,
) -> Memory:
    """Return the memory of one device under FSDP with full sharding, a block of the transformer being a unit.

    Weights, moments and gradients are split evenly. Gathered whole are the weights of the block at work and
    of the next one, fetched ahead, one block's gradients, and weights and gradients of what is in no block,
    all through the step; in 16 bits with mixed precision. With accumulation, gradients stay whole between the
    parts, as `no_sync` of accelerate leaves them.
    """
    ahead = min(sizes.n_blocks, 2)
    gathered = 2 * sizes.root + (ahead + 1) * sizes.block
    unsharded = sizes.gradients if accumulation > 1 else 0
    share = -(-sizes.gradients // n_devices)
    return Memory(
        parameters=-(-sizes.weights // n_devices),
        optimizer=-(-sizes.optimizer // n_devices),
        step=max(cost.peak_activations + share, evaluation),
        buckets=0,
        gathered=(gathered + unsharded) // (2 if half else 1),
        bank=bank,
    )
