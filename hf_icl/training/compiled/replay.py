"""On a GPU, the kernels of a step recorded once as a CUDA graph:
replaying it costs the host one call instead of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

N_WARM_UP = 3  # calls before recording, in which libraries choose their kernels and compilers compile


def can_replay(device: torch.device) -> bool:
    return device.type == "cuda"


class Replayed:
    """A function of tensors that is called a few times, then recorded, and from then on replayed.

    Whatever it reads and writes beside its arguments must stay in its place, and it must neither look at
    values on the host nor depend on numbers there that change. Where it cannot be recorded, a warning says
    why and it is called as before.

    Args:
        function: From tensors to a tensor, all on one GPU, of the same shapes in every call.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function, self._n_calls = function, 0
        self._replay: Callable[[], None] | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        self._n_calls += 1
        if self._n_calls <= N_WARM_UP:
            return call_aside(self._function, inputs)
        if self._n_calls == N_WARM_UP + 1:
            self._record(inputs)
        if self._replay is None:
            return self._function(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._replay()
        return self._output.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [values.clone() for values in inputs]
        try:
            self._replay, self._output = record(self._function, self._inputs)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("steps are not recorded as a CUDA graph, so each takes longer: %s", reason)


def call_aside(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    """Call a function on a stream of its own, as torch asks for before recording."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        output = function(*inputs)
    current.wait_stream(stream)
    return output


def record(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Return what runs a function's kernels again, reading and writing the same memory,
    and the tensor it returns."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*inputs)
    return graph.replay, output
