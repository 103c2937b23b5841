"""From label logits to per-sequence results. Pure: tensors in, tensors out.

Axes: B sequences, C context places, L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MEASURES = (
    "loss", "accuracy", "probability", "context_accuracy", "context_probability", "context_mass",
    "context_chance", "in_weights_accuracy", "answer", "context_answer",
)  # fmt: skip
NO_ANSWER = -1  # in place of a label, where logits are no numbers


def score(logits_BL: Tensor, context_labels_BC: Tensor, target_B: Tensor) -> dict[str, Tensor]:
    """Score the query's label logits, over all labels and over the labels that stand in the context.

    Args:
        logits_BL: Label logits at the query, shape (n_sequences, n_labels).
        context_labels_BC: Labels shown in the context, shape (n_sequences, n_context), each in [0, n_labels).
        target_B: The answer that counts as right, shape (n_sequences,).

    Returns:
        Tensors of shape (n_sequences,):

        - `loss`: cross-entropy in nats.
        - `accuracy`: whether the target has the largest logit of all labels (bool).
        - `probability`: softmax over all labels, at the target.
        - `context_accuracy`, `context_probability`: the same over the distinct labels in context.
          0 where the target is not in the context.
          Logits that are not numbers are no answer: neither accuracy holds.
        - `context_mass`: total probability on the labels in context.
        - `context_chance`: one over the number of distinct labels in context.
        - `answer`, `context_answer`: the label with the largest logit, of all and of those in context
          (int64); −1 where logits are no numbers.

    Source: the measures of Singh et al. 2025 (arXiv 2503.05631).

    >>> s = score(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[0, 2]]), torch.tensor([2]))
    >>> bool(s["accuracy"]), bool(s["context_accuracy"]), round(float(s["context_probability"]), 3)
    (False, True, 0.731)
    """
    log_p_BL = F.log_softmax(logits_BL.float(), dim=-1)
    log_p_target_B = log_p_BL.gather(1, target_B[:, None]).squeeze(1)
    repeats_BC = first_occurrence(context_labels_BC).logical_not()
    log_p_context_BC = log_p_BL.gather(1, context_labels_BC).masked_fill(repeats_BC, -torch.inf)
    context_answer_B = context_labels_BC.gather(1, log_p_context_BC.argmax(1, keepdim=True)).squeeze(1)
    log_mass_B = log_p_context_BC.logsumexp(1)
    is_none_B = log_p_BL.isnan().any(1)
    answer_B = log_p_BL.argmax(1).masked_fill(is_none_B, NO_ANSWER)
    context_answer_B = context_answer_B.masked_fill(is_none_B, NO_ANSWER)
    in_context_B = (context_labels_BC == target_B[:, None]).any(1)
    return {
        "loss": -log_p_target_B,
        "accuracy": answer_B == target_B,
        "probability": log_p_target_B.exp(),
        "context_accuracy": context_answer_B == target_B,
        "context_probability": (log_p_target_B - log_mass_B).exp() * in_context_B,
        "context_mass": log_mass_B.exp(),
        "context_chance": 1 / repeats_BC.logical_not().sum(1),
        "answer": answer_B,
        "context_answer": context_answer_B,
    }


def first_occurrence(values_BC: Tensor) -> Tensor:
    """Mark each value that no earlier place of its row holds.

    >>> first_occurrence(torch.tensor([[5, 3, 5]])).tolist()
    [[True, True, False]]
    """
    n = values_BC.shape[1]
    same_BCC = values_BC[:, :, None] == values_BC[:, None, :]
    earlier_CC = torch.ones(n, n, dtype=torch.bool, device=values_BC.device).tril(-1)
    return (same_BCC & earlier_CC).any(2).logical_not()
