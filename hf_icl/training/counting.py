"""How many sequences a model has really been trained on: counted where they enter it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.trainer_pt_utils import find_batch_size

from hf_icl.distributed import count_processes, map_spread


class SequenceCounter:
    """Counts the sequences that enter a model in training mode, over all processes.

    So the last part of an epoch, accumulation, and a batch size that changes in mid-training are counted as
    they are. A process counts what enters its own model; between two calls of `agree`, the others are taken
    to have got as many, as `accelerate` deals batches out.

    Args:
        seen: Sequences that were seen before.

    >>> counter, model = SequenceCounter(100), nn.Linear(2, 2)
    >>> counter.watch(model)
    >>> for n_sequences in (64, 22):
    ...     _ = model(torch.ones(n_sequences, 2))
    >>> counter.end_step(), counter.total
    (86, 186)
    """

    def __init__(self, seen: int = 0) -> None:
        self.agreed = seen  # over all processes, when they last agreed
        self.own = 0  # of this process since then
        self._entered: list[int] = []  # in this step; appended to from several threads under DataParallel
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def total(self) -> int:
        """Sequences seen, over all processes."""
        return self.agreed + self.own * count_processes()

    def watch(self, model: nn.Module) -> None:
        """Count what enters this model from now on, and no other."""
        self.forget()
        self._hook = model.register_forward_pre_hook(_Entrance(self._entered), with_kwargs=True)

    def forget(self) -> None:
        """Take the hook off the model."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None
        self._entered.clear()

    def add(self, n_sequences: int) -> None:
        """Count sequences of this process that enter no watched model."""
        self._entered.append(n_sequences)

    def end_step(self) -> int:
        """Take an optimizer step's sequences into the total; return how many this process has had."""
        n_sequences = sum(self._entered)
        self._entered.clear()
        self.own += n_sequences
        return n_sequences

    def agree(self) -> None:
        """Take what each process has really had; all of them must call."""
        n_processes = count_processes()
        self.agreed += sum(map_spread(lambda job: self.own, n_processes)) if n_processes > 1 else self.own
        self.own = 0


class _Entrance:
    """What is called before a model's forward; it knows the list alone, so that models are copied cheaply."""

    def __init__(self, entered: list[int]) -> None:
        self.entered = entered

    @torch.compiler.disable
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            main = kwargs.get(getattr(model, "main_input_name", ""))
            self.entered.append(find_batch_size([main, args, kwargs]) or 0)
