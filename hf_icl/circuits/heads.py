"""Scores of attention heads. Pure: attention patterns in, a number per sequence and head out.

Axes: B sequences, H heads, P places, C context pairs. A pattern is A[b, h, query place, key place].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_icl.sequences.spec import Places, count_places


@dataclass(frozen=True)
class Layout:
    """Where the parts of a sequence stand among a model's places.

    Attributes:
        exemplars: int64 (n_context,), places of the context's exemplars.
        labels: int64 (n_context,), places that show their labels; of paired places the same ones.
        query: Place of the query's exemplar.
        answer: Place at which the answer is read; the query's own where nothing is written after it.
    """

    exemplars: Tensor
    labels: Tensor
    query: int
    answer: int

    @property
    def is_paired(self) -> bool:
        """Whether exemplar and label share a place."""
        return torch.equal(self.exemplars, self.labels)


def lay_out(n_context: int, places: Places, *, n_before: int = 0) -> Layout:
    """Return where the parts of a sequence stand.

    Args:
        n_context: Exemplar–label pairs before the query.
        places: interleaved or paired.
        n_before: Places before the first exemplar, such as those of a prompt's beginning.

    >>> layout = lay_out(2, "interleaved")
    >>> layout.exemplars.tolist(), layout.labels.tolist(), layout.query
    ([0, 2], [1, 3], 4)
    >>> lay_out(2, "paired", n_before=1).labels.tolist()
    [1, 2]
    """
    step = 2 if places == "interleaved" else 1
    exemplars = n_before + step * torch.arange(n_context)
    query = n_before + count_places(n_context, places) - 1
    return Layout(exemplars, exemplars + step - 1, query, answer=query)


def score_heads(
    pattern_BHPP: Tensor, layout: Layout, context_labels_BC: Tensor, target_B: Tensor
) -> dict[str, Tensor]:
    """Score all heads of one layer on some sequences.

    Args:
        pattern_BHPP: Attention, shape (n_sequences, n_heads, places, places); rows sum to 1, or to less where
            a model lets attention go nowhere.
        layout: Where exemplars and labels stand.
        context_labels_BC: Labels shown in the context, shape (n_sequences, n_context).
        target_B: The label that counts as right, shape (n_sequences,). Of swapped labels it is the one that
            the context gives, so that a negative induction strength means looking at the class's own label.

    Returns:
        Tensors of shape (n_sequences, n_heads):

        - `induction`: attention from the answer's place to the places that show the right label less that
          to the places that show others, a mean over each kind; in [−1, 1]. Not-a-number where the context
          lacks either kind.
        - `context_mass`: attention from there to all places that show labels together, in [0, 1].
        - `previous_token`: attention from a label to the exemplar before it, a mean over labels, in [0, 1];
          of interleaved places only.
        - `own_token`: attention from a label to itself instead: the control of the one before.

    Source: Reddy 2024 (arXiv 2312.03002) and Singh et al. 2025 (arXiv 2503.05631) for the strength.

    >>> pattern = torch.tensor([[0.0, 0.7, 0.0, 0.1, 0.2]]).expand(1, 1, 5, 5)
    >>> found = score_heads(pattern, lay_out(2, "interleaved"), torch.tensor([[4, 6]]), torch.tensor([4]))
    >>> [round(found[name].item(), 3) for name in ("induction", "context_mass")]
    [0.6, 0.8]
    """
    from_query_BHC = pattern_BHPP[:, :, layout.answer, layout.labels.to(pattern_BHPP.device)].float()
    weight_BC = weigh_labels(context_labels_BC, target_B)
    scores = {
        "induction": (from_query_BHC * weight_BC[:, None]).sum(-1),
        "context_mass": from_query_BHC.sum(-1),
    }
    if not layout.is_paired:
        from_labels_BHCP = pattern_BHPP[:, :, layout.labels.to(pattern_BHPP.device)].float()
        for name, places in (("previous_token", layout.exemplars), ("own_token", layout.labels)):
            index = places.to(pattern_BHPP.device).view(1, 1, -1, 1).expand(*from_labels_BHCP.shape[:3], 1)
            scores[name] = from_labels_BHCP.gather(-1, index).mean((-2, -1))
    return scores


def weigh_labels(context_labels_BC: Tensor, target_B: Tensor) -> Tensor:
    """Return what each context place counts for in an induction strength, float32 (n_sequences, n_context).

    Places with the right label share 1, those with other labels −1; a row is not-a-number if it lacks either.

    >>> weigh_labels(torch.tensor([[5, 3, 5], [5, 5, 5]]), torch.tensor([5, 5])).tolist()
    [[0.5, -1.0, 0.5], [nan, nan, nan]]
    """
    is_right_BC = context_labels_BC == target_B[:, None]
    n_right_B1, n_other_B1 = is_right_BC.sum(1, keepdim=True), (~is_right_BC).sum(1, keepdim=True)
    weight_BC = torch.where(is_right_BC, 1 / n_right_B1, -1 / n_other_B1)
    return weight_BC.masked_fill((n_right_B1 == 0) | (n_other_B1 == 0), torch.nan)


def match_prefix(pattern_BHPP: Tensor, period: int) -> dict[str, Tensor]:
    """Score heads on random tokens t1 … tS, t1 … tS: a sequence of length S, given twice.

    Args:
        pattern_BHPP: Attention, shape (n_sequences, n_heads, places, places), places ≥ 2 S.
        period: S, at least 2; the last 2 S places are looked at.

    Returns:
        Means over the places p of the repetition, (n_sequences, n_heads) in [0, 1]:

        - `prefix_matching`: attention to place p + 1 − S, behind where p's token stood before.
        - `duplicate_token`: attention to place p − S, where it stood.
        - `previous_token_repeat`: attention to place p − 1.

    Source: the induction, duplicate-token and previous-token heads of TransformerLens's head detector. Where
        it takes whole diagonals, here the first appearance is left out: it repeats nothing.

    >>> eye = torch.eye(6).roll(2, dims=0)  # each place attends to the one two before
    >>> {name: value.item() for name, value in match_prefix(eye.expand(1, 1, 6, 6), period=3).items()}
    {'prefix_matching': 1.0, 'duplicate_token': 0.0, 'previous_token_repeat': 0.0}
    """
    n_places = pattern_BHPP.shape[-1]
    rows = torch.arange(n_places - period, n_places, device=pattern_BHPP.device)
    offsets = {"prefix_matching": period - 1, "duplicate_token": period, "previous_token_repeat": 1}
    return {name: pattern_BHPP[:, :, rows, rows - by].float().mean(-1) for name, by in offsets.items()}


def score_context(losses_BP: Tensor, early: int = 50, late: int = 500) -> Tensor:
    """Return the in-context learning score of texts, in nats: loss at an early place less that at a late one.

    Positive: the text so far helps. Olsson et al. subtract the other way round, so that theirs is negative.

    Args:
        losses_BP: Loss of each place's token, shape (n_texts, places).
        early: Place that has seen little, from 0.
        late: Place that has seen much.

    Returns:
        Shape (n_texts,).

    Source: Olsson et al. 2022 (arXiv 2209.11895), with their places 50 and 500.

    >>> score_context(torch.tensor([[5.0, 4.0, 3.5]]), early=0, late=2)
    tensor([1.5000])
    """
    return losses_BP[:, early] - losses_BP[:, late]
