"""The model inside what others have wrapped around it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


def see_through(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Weights are the same, and nothing is compiled anew, or awaited of other processes, when it is asked. FSDP
    stays, since weights are gathered by it, and so do adapters, since they answer too.

    >>> inner = nn.Linear(1, 1)
    >>> see_through(nn.DataParallel(inner)) is inner
    True
    """
    from accelerate.utils import extract_model_from_parallel  # takes a second

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return model
    return extract_model_from_parallel(model, keep_torch_compile=False)


def list_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return what a model's forward takes, of one wrapped by peft that of the model inside."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(inner.forward).parameters
