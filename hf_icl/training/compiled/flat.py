"""Weights of R models in one block of memory, and an AdamW that goes over it in a few long stretches.

A small network has many small tensors, and what an optimizer does around each takes longer than its
arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim.adamw import AdamW, adamw

ALIGNMENT = 16  # tensors begin at multiples of so many floats: cache lines
STATE = ("exp_avg", "exp_avg_sq", "step")


class Flat(NamedTuple):
    """The parameters of R models of one shape, N numbers each with zeros between tensors,
    and their gradients.

    Attributes:
        values: Shape (R, N).
        gradients: Shape (R, N).
        spans: Parameter name to where in a row it lies; names in the models' order.
        weights: Parameter name to values of shape (R, *shape), in the same memory.
        weight_gradients: The same of gradients.
    """

    values: Tensor
    gradients: Tensor
    spans: dict[str, slice]
    weights: dict[str, Tensor]
    weight_gradients: dict[str, Tensor]


@torch.no_grad()
def flatten(models: Sequence[Module]) -> Flat:
    """Move the parameters of models of one shape, and their gradients, which begin at zero,
    into one block each.

    From then on writing to the blocks writes to the models, and the other way round.

    >>> models = [torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)]
    >>> flat = flatten(models)
    >>> flat.weights["bias"][1].fill_(7.0), models[1].bias[0].item(), flat.values.shape
    (tensor([7., 7., 7.]), 7.0, torch.Size([2, 32]))
    """
    first, spans, end = dict(models[0].named_parameters()), {}, 0
    for name, parameter in first.items():
        spans[name] = slice(end, end + parameter.numel())
        end += math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT
    values = parameter.new_zeros(len(models), end)
    flat = Flat(values, torch.zeros_like(values), spans, {}, {})
    for name, span in spans.items():
        # By DLPack they are tensors of their own; what a compiler sees as parts of one tensor, it writes as a
        # whole.
        flat.weights[name], flat.weight_gradients[name] = (
            torch.from_dlpack(block[:, span]).unflatten(1, first[name].shape) for block in flat[:2]
        )
        for replica, model in enumerate(models):
            own = model.get_parameter(name)
            own.data = flat.weights[name][replica].copy_(own)
            own.grad = flat.weight_gradients[name][replica]
    return flat


class Stretch(NamedTuple):
    """Parameters of one optimizer group that lie side by side: n numbers each,
    and how many steps were taken."""

    values: Tensor
    gradients: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


class FlatAdamW(AdamW):
    """AdamW over a model whose parameters lie in one block: groups, state and numbers are the stock one's.

    What either saves, the other loads.

    Args:
        stock: The optimizer to stand in for, before its first step.
        model: What it moves.
        flat: Where the model's parameters lie.
        replica: In which row.
    """

    def __init__(self, stock: AdamW, model: Module, flat: Flat, replica: int) -> None:
        super().__init__(stock.param_groups)
        self._rows = flat.values[replica], flat.gradients[replica]
        self._spans = {parameter: flat.spans[name] for name, parameter in model.named_parameters()}
        self._stretches = [self._join(set(group["params"])) for group in self.param_groups]
        self._rates: Tensor | None = None
        self._held: list[float] = []

    def _join(self, wanted: set[Parameter]) -> list[Stretch]:
        """Return the longest stretches of some parameters, without another between."""
        stretches, neighbours = [], []
        for parameter in self._spans:
            if parameter in wanted:
                neighbours.append(parameter)
            elif neighbours:
                stretches.append(self._make_stretch(neighbours))
                neighbours = []
        return [*stretches, self._make_stretch(neighbours)] if neighbours else stretches

    def _make_stretch(self, neighbours: Sequence[Parameter]) -> Stretch:
        """Join parameters, and make each one's state a part of the whole's."""
        start, stop = self._spans[neighbours[0]].start, self._spans[neighbours[-1]].stop
        values, gradients = (row[start:stop] for row in self._rows)
        stretch = Stretch(
            values, gradients, torch.zeros_like(values), torch.zeros_like(values), values.new_zeros(())
        )
        for parameter in neighbours:
            span = self._spans[parameter]
            inside = slice(span.start - start, span.stop - start)
            parts = (whole[inside].view_as(parameter) for whole in stretch[2:4])
            self.state[parameter] = dict(zip(STATE, (*parts, stretch.step), strict=True))
        return stretch

    def hold_rates(self) -> None:
        """Put the groups' learning rates where a recorded step finds them: in tensors beside the weights,
        each where it was."""
        rates = [float(group["lr"]) for group in self.param_groups]
        if self._rates is None:
            self._held, self._rates = rates, self._rows[0].new_tensor(rates)
        elif rates != self._held:
            self._held = rates
            self._rates.copy_(torch.tensor(rates))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step along the gradients; there is no closure to give."""
        for number, (group, stretches) in enumerate(zip(self.param_groups, self._stretches, strict=True)):
            if not stretches:
                continue
            values, gradients, exp_avgs, exp_avg_sqs, steps = map(list, zip(*stretches, strict=True))
            beta1, beta2 = group["betas"]
            numbers = {name: group[name] for name in ("weight_decay", "eps", "amsgrad", "maximize")}
            rate = group["lr"] if self._rates is None else self._rates[number]
            adamw(
                values, gradients, exp_avgs, exp_avg_sqs, [], steps,
                fused=True, lr=rate, beta1=beta1, beta2=beta2, **numbers,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return what the stock optimizer would, where no tensor shares memory with another."""
        packed = super().state_dict()
        states = {
            key: {name: value.clone() for name, value in state.items()}
            for key, state in packed["state"].items()
        }
        return packed | {"state": states}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what this or the stock optimizer saved."""
        parts = dict(self.state)
        super().load_state_dict(state_dict)
        for parameter, own in parts.items():
            for name, value in own.items():
                value.copy_(self.state[parameter][name])
            self.state[parameter] = own
