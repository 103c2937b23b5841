"""Long curves with fewer points, drawn the same."""

from __future__ import annotations

import numpy as np

POINTS_PER_CURVE = 2000


def thin(steps: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most about `limit` points of a curve: both ends, and the lowest and highest of equal stretches between.

    >>> steps, values = thin(np.arange(1000), np.eye(1, 1000, 321)[0], 10)
    >>> len(steps) <= 12, values.max().item(), steps[[0, -1]].tolist()
    (True, 1.0, [0, 999])
    """
    if steps.size <= limit:
        return steps, values
    edges = np.linspace(0, steps.size, max(1, limit // 2) + 1).astype(int)
    kept = {0, steps.size - 1}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        stretch = values[low:high]
        kept |= {low + int(stretch.argmin()), low + int(stretch.argmax())}
    index = np.array(sorted(kept))
    return steps[index], values[index]
