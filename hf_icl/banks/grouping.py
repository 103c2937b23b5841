"""Groups of near neighbours among the rows of a table, and how far apart they lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from hf_icl.banks.bank import track

SEEDS_AT_ONCE = 256
SPARE_NEIGHBOURS = 32
SHARE_TAKEN = 0.25  # of the searched rows: beyond it, taken rows are dropped from the search


def group_neighbours(
    table: np.ndarray, order: np.ndarray, n_groups: int, group_size: int, *, progress: bool = False
) -> np.ndarray:
    """Group rows: in a given order, each row that is still free takes the nearest rows that are free too.

    Distances are Euclidean and the search is exact (scikit-learn). It takes n_groups · n_rows · D
    multiplications, and beside the table no memory that grows with it, until a quarter of the rows is taken:
    then the others are copied.

    Args:
        table: float32 (n_rows, D).
        order: All row numbers, in the order in which rows begin groups.
        n_groups: How many groups; n_groups · group_size ≤ n_rows.
        group_size: Rows of a group.
        progress: Show a bar.

    Returns:
        int64 (n_groups, group_size): the row that began a group, then the others from near to far. Groups do
        not depend on how many come after them.

    >>> table = np.array([[0.0], [1.0], [10.0], [11.0], [2.5], [30.0]], dtype=np.float32)
    >>> group_neighbours(table, np.array([1, 2, 0, 3, 4, 5]), 2, 2).tolist()
    [[1, 0], [2, 3]]
    """
    groups = itertools.islice(_generate_groups(table, order, group_size), n_groups)
    return np.stack(list(track(groups, "Grouping tokens", show=progress, total=n_groups)))


def _generate_groups(table: np.ndarray, order: np.ndarray, group_size: int) -> Iterator[np.ndarray]:
    """Yield one group after the other, seeds looked up many at a time."""
    from sklearn.neighbors import NearestNeighbors  # as long to import as all the rest, and seldom needed

    rows = np.arange(len(table))  # of the whole table, by row of what is searched
    free = np.ones(len(table), dtype=bool)
    search = NearestNeighbors(algorithm="brute").fit(table)
    for start in range(0, len(order), SEEDS_AT_ONCE):
        seeds = order[start : start + SEEDS_AT_ONCE]
        seeds = seeds[free[seeds]]
        if not len(seeds):
            continue
        if (~free[rows]).mean() > SHARE_TAKEN:
            table, rows = table[free[rows]], rows[free[rows]]
            search = NearestNeighbors(algorithm="brute").fit(table)
        places = np.searchsorted(rows, seeds)
        n_near = min(2 * group_size + SPARE_NEIGHBOURS, len(rows))
        nearest = search.kneighbors(table[places], n_near, return_distance=False)
        for seed, place, near in zip(seeds, places, nearest, strict=True):
            if not free[seed]:
                continue  # a group before it in this batch took it
            free[seed] = False
            others = _take_free(rows[near], free, group_size - 1)
            if len(others) < group_size - 1:
                near = search.kneighbors(table[[place]], len(rows), return_distance=False)[0]
                others = _take_free(rows[near], free, group_size - 1)
            free[others] = False
            yield np.array([seed, *others])


def _take_free(rows: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    return rows[free[rows]][:count]


def measure_spread(exemplars: Tensor) -> dict[str, float | None]:
    """Measure how tight classes are, and how far apart, as root-mean-square Euclidean distances.

    within: of exemplars x_ce from the mean m_c of their class, sqrt(mean_ce |x_ce − m_c|²).
    between: of class means from the mean m of them all, sqrt(mean_c |m_c − m|²).
    ratio: between / within, None if within is 0; E exemplars put into classes at random give about
        1 / sqrt(E − 1).

    Args:
        exemplars: (n_classes, n_exemplars, D); the results are in its units.

    >>> import torch
    >>> measure_spread(torch.tensor([[[0.0], [2.0]], [[10.0], [12.0]]]))  # means 1 and 11, their mean 6
    {'within': 1.0, 'between': 5.0, 'ratio': 5.0}
    """
    means = exemplars.mean(1)
    within = float((exemplars - means[:, None]).square().sum(-1).double().mean().sqrt())
    between = float((means - means.mean(0)).square().sum(-1).double().mean().sqrt())
    return {"within": within, "between": between, "ratio": between / within if within else None}
