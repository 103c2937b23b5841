"""What the metrics on answers to queries are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import torch
from torch import Tensor

from hf_icl.errors import ConfigError

FEATURES = datasets.Features(
    {
        "predictions": datasets.Sequence(datasets.Value("float32")),
        "references": datasets.Value("int64"),
        "context_labels": datasets.Sequence(datasets.Value("int64")),
    }
)
INPUTS = """
Args:
    predictions: Label logits at the query, a list of n_labels floats per sequence.
    references: The label that counts as right, an int in [0, n_labels) per sequence.
    context_labels: The labels shown in the context, a list of ints in [0, n_labels) per sequence, all of one
        length.
"""


def read_answers(
    predictions: Sequence[Sequence[float]], references: Sequence[int], context_labels: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n_sequences, n_labels),
    context labels (n_sequences, n_context) and right answers (n_sequences,).

    Raises:
        ConfigError: If there are none, lengths differ from sequence to sequence, a logit is not a number, or
            a label is out of range.

    >>> [tuple(part.shape) for part in read_answers([[0.0, 2.0, 1.0]], [2], [[0, 2]])]
    [(1, 3), (1, 2), (1,)]
    """
    logits_BL = _stack("predictions", predictions, torch.float32)
    context_BC = _stack("context_labels", context_labels, torch.int64)
    target_B = torch.tensor(references, dtype=torch.int64)
    if logits_BL.isnan().any():
        row = int(logits_BL.isnan().any(1).nonzero()[0])
        raise ConfigError("predictions", predictions[row], f"the logits of sequence {row} are not numbers")
    n_labels = logits_BL.shape[1]
    for name, labels in (("references", target_B), ("context_labels", context_BC)):
        if int(labels.min()) < 0 or int(labels.max()) >= n_labels:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise ConfigError(name, wrong, f"with {n_labels} logits, labels are 0 to {n_labels - 1}")
    return logits_BL, context_BC, target_B


def _stack(name: str, rows: Sequence[Sequence], dtype: torch.dtype) -> Tensor:
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        rule = "every sequence must have as many, at least one" if rows else "there are no sequences"
        raise ConfigError(name, lengths, rule, "Look at their lengths, given here.")
    return torch.tensor(rows, dtype=dtype)
