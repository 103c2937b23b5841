"""Which classes and exemplars a bank takes of what is there, which of them it holds out, and their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_icl.errors import BankError
from hf_icl.philox import draw_words, stream_of, uniform_below

LABEL_STREAM = stream_of("bank/labels")
SPLIT_STREAM = stream_of("bank/split")


def assign_labels(
    n_train: int, n_holdout: int, *, n_labels: int | None, labels_per_class: int = 1, seed: int = 0
) -> tuple[Tensor, int]:
    """Give every training class its labels, each by (seed, class) alone.

    With `n_labels` None, class k has the labels k·L … k·L+L-1, which no other class has. Else each class
    draws L different labels uniformly, so several classes may share one, as in Reddy 2024 (arXiv 2312.03002).

    Returns:
        int64 (n_train + n_holdout, L), −1 for holdout classes, and how many labels there are.

    >>> assign_labels(2, 1, n_labels=None, labels_per_class=2)
    (tensor([[ 0,  1],
            [ 2,  3],
            [-1, -1]]), 4)
    """
    if n_labels is None:
        labels = torch.arange(n_train * labels_per_class).view(n_train, labels_per_class)
    else:
        labels = _draw_distinct(n_train, labels_per_class, n_labels, seed)
    holdout = torch.full((n_holdout, labels_per_class), -1)
    return torch.cat([labels, holdout]), n_train * labels_per_class if n_labels is None else n_labels


def _draw_distinct(n_rows: int, n_picks: int, n_values: int, seed: int) -> Tensor:
    """Draw `n_picks` different values below `n_values` for each row;
    the first picks do not depend on later ones."""
    words = draw_words(torch.arange(n_rows), n_picks, seed=seed, stream=LABEL_STREAM)
    picks = torch.empty(n_rows, 0, dtype=torch.int64)
    for place in range(n_picks):
        pick = uniform_below(words[:, place], n_values - place)  # among the values left over, in their order
        for taken in picks.sort(dim=1).values.unbind(dim=1):
            pick = pick + (pick >= taken)
        picks = torch.cat([picks, pick[:, None]], dim=1)
    return picks


def split_classes(n_available: int, n_train: int, n_holdout: int, *, seed: int, what: str) -> Tensor:
    """Choose training and holdout classes among those of a data set, in one shuffled order.

    Training classes are taken from the start of the order and holdout classes from its end, so each stays
    when the other's number changes (the habit of `google-deepmind/emergent_in_context_learning`).

    Args:
        n_available: Classes of the data set.
        n_train: Training classes.
        n_holdout: Holdout classes.
        seed: Seed of the order.
        what: Names the data set and its classes in the error, such as "omniglot.zip: characters".

    Returns:
        int64 (n_train + n_holdout,): numbers of the chosen classes, training first.

    Raises:
        BankError: If there are too few classes.

    >>> few, many = (split_classes(100, n, 5, seed=0, what="classes") for n in (3, 95))
    >>> few[:3].equal(many[:3]), few[-5:].equal(many[-5:])
    (True, True)
    """
    if n_train + n_holdout > n_available:
        raise BankError(
            f"{what}: {n_available} there, but n_classes = {n_train} for training and n_holdout_classes = "
            f"{n_holdout} make {n_train + n_holdout}. Lower one of them."
        )
    words = draw_words(torch.arange(n_available), 2, seed=seed, stream=SPLIT_STREAM)
    order = torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)
    return torch.cat([order[:n_train], order[n_available - n_holdout :].flip(0)])


def choose_exemplars(n_available: int, n_wanted: int | None, n_holdout: int, *, what: str) -> int:
    """Return how many exemplars of each class to use: those wanted, or all.

    Raises:
        BankError: If there are too few, or all would be held out.
    """
    if n_wanted is not None and n_wanted > n_available:
        raise BankError(
            f"{what}: {n_available} exemplars there, but n_exemplars = {n_wanted}. Lower n_exemplars."
        )
    n_exemplars = n_wanted or n_available
    if n_holdout >= n_exemplars:
        raise BankError(
            f"{what}: {n_exemplars} exemplars, and n_holdout_exemplars = {n_holdout} leaves none for "
            "training. Lower n_holdout_exemplars."
        )
    return n_exemplars


def number_exemplars(n_classes: int, n_exemplars: int) -> Tensor:
    """Return 0, 1, 2 … as int64 (n_classes, n_exemplars)."""
    return torch.arange(n_classes * n_exemplars).view(n_classes, n_exemplars)
