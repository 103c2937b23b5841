"""Matrix products and table look-ups of R replicas at once, each with its own weights: products by the
library that is faster on this machine, look-ups with gradients that are the same from run to run.

On x86, torch multiplies float32 matrices with Intel's MKL, which on AMD's processors leaves the wider half of
their vector units idle; the oneDNN that torch ships too does not. On Intel's own, MKL is faster. Measured:
docs/benchmarks.md.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_FLOPS = 12_000_000  # per replica; below, oneDNN's slower start costs more than it gains


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map x (R, n, in) by weights (R, out, in) and biases (R, out) to (R, n, out).

    >>> project(torch.ones(1, 2, 3), torch.ones(1, 4, 3), torch.zeros(1, 4))[0, 0]
    tensor([3., 3., 3., 3.])
    """
    return x @ weight.mT if bias is None else _Project.apply(x, weight, bias)


class _Project(torch.autograd.Function):
    """x @ weight.mT + bias per replica; unlike torch's own, its weight gradient is contiguous,
    as optimizers need it."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if _prefers_onednn(x, weight):
            return torch.ops.hf_icl.linear(x, weight, bias)
        return x @ weight.mT + bias[:, None]  # a sum that a compiler joins with what follows

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        if not _prefers_onednn(x, weight):
            return g @ weight, g.mT @ x, g.sum(1)
        g = g.contiguous()
        dx = torch.ops.hf_icl.linear(g, weight.mT, None)
        return dx, torch.ops.hf_icl.gradient(g, x), g.sum(1)


def look_up(tables: Tensor, ids: Tensor) -> Tensor:
    """Return rows of each replica's own table (R, n, D) at ids (R, …), shape (R, …, D).

    >>> look_up(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1, 1], [0, 1]])).squeeze(-1)
    tensor([[2., 2.],
            [3., 4.]])
    """
    n_replicas, n_rows = tables.shape[:2]
    offsets = torch.arange(n_replicas, device=ids.device) * n_rows
    rows = ids + offsets.view(-1, *[1] * (ids.ndim - 1))
    return _LookUp.apply(tables.flatten(0, 1), rows).view(*ids.shape, -1)


class _LookUp(torch.autograd.Function):
    """Rows of a table (n, D) at ids. A compiler would add to the table's gradient from all threads at once,
    in the order in which they come; torch's own operator gives each thread rows of its own."""

    @staticmethod
    def forward(table: Tensor, ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.n_rows = len(inputs[0])
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        return torch.ops.hf_icl.add_up(g.contiguous(), ids, ctx.n_rows), None


def _prefers_onednn(x: Tensor, weight: Tensor) -> bool:
    flops = 2 * x.shape[1] * weight.shape[1] * weight.shape[2]
    return (
        HAS_ONEDNN
        and IS_MKL_SLOW
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and flops >= MIN_FLOPS
    )


def _leaves_units_idle() -> bool:
    """Return whether MKL is slow on the processor: it is AMD's, by what the system calls it, and has vector
    units of 512 bits. Where they have 256, neither library is ahead in forward products, and MKL is in
    gradients."""
    known = Path("/proc/cpuinfo")
    is_amd = "AuthenticAMD" in (known.read_text() if known.exists() else platform.processor())
    return is_amd and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


HAS_ONEDNN = torch.backends.mkldnn.is_available()
IS_MKL_SLOW = _leaves_units_idle()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.mT + bias, shape (R, n, out), one replica after the other."""
    biases = [None] * len(x) if bias is None else bias
    parts = [_multiply(*one) for one in zip(x, weight, biases, strict=True)]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _gradient(g: Tensor, x: Tensor) -> Tensor:
    """Return g.mT @ x, shape (R, out, in)."""
    parts = [_multiply(one.T, other.T, None) for one, other in zip(g, x, strict=True)]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _multiply_dense(_make_dense(x), _make_dense(weight), bias)


def _multiply_dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _make_dense(matrix: Tensor) -> Tensor:
    """Return a matrix whose rows, or columns, lie one behind the other: for any other, such as the queries'
    places of all sequences, oneDNN has no more than a plain loop, which takes some hundred times as long."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


def _add_up(g: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    """Return the sum of the vectors (…, D) at each id, shape (n_rows, D)."""
    return torch.ops.aten.embedding_dense_backward(g, ids, n_rows, -1, False)


# As operators of our own, since a compiler takes the library's products only with weights that never change,
# and writes sums at ids itself.
_library = torch.library.Library("hf_icl", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.define("gradient(Tensor g, Tensor x) -> Tensor")
_library.define("add_up(Tensor g, Tensor ids, int n_rows) -> Tensor")
for _name, _function, _device in (
    ("linear", _linear, "CPU"),
    ("gradient", _gradient, "CPU"),
    ("add_up", _add_up, "CompositeExplicitAutograd"),
):
    _library.impl(_name, _function, _device)
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")  # they are derivatives themselves
torch.library.register_fake("hf_icl::linear")(
    lambda x, weight, bias: x.new_empty(*x.shape[:2], weight.shape[1])
)
torch.library.register_fake("hf_icl::gradient")(lambda g, x: g.new_empty(len(g), g.shape[2], x.shape[2]))
torch.library.register_fake("hf_icl::add_up")(lambda g, ids, n_rows: g.new_empty(n_rows, g.shape[-1]))
