"""On a GPU, the kernels of a step recorded once as a CUDA graph:
replaying it costs the host one call instead of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

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
        if not self._inputs:  # in one layout from the first call on, as compilers compile for one
            self._inputs = [values.clone(memory_format=torch.contiguous_format) for values in inputs]
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._n_calls += 1
        if self._n_calls <= N_WARM_UP:
            return call_aside(self._function, self._inputs)
        if self._n_calls == N_WARM_UP + 1:
            self._record()
        if self._replay is None:
            return self._function(*self._inputs)
        self._replay()
        return self._output.clone()

    def _record(self) -> None:
        try:
            self._replay, self._output = record(self._function, self._inputs)
        except RuntimeError as error:
            reason = str(find_first(error)).strip().splitlines()[0]
            logger.warning("steps are not recorded as a CUDA graph, so each takes longer: %s", reason)


def find_first(error: BaseException) -> BaseException:
    """Return the error that others came after: of a broken recording, the last only says that it broke."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def call_aside(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
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
    try:
        with torch.cuda.graph(graph):
            output = function(*inputs)
    except RuntimeError:
        _record_nothing()
        raise
    return graph.replay, output


def _record_nothing() -> None:
    """Record one kernel: after a recording that broke, torch's random numbers wait for one that ends."""
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")
