"""What is written of a checkpoint's circuits: rows of heads with intervals, and of effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_icl.circuits.effects import Change, Effect
from hf_icl.circuits.instrument import HeadScores
from hf_icl.summary.heads import HeadMetric


def make_head_row(step: int, found: Sequence[HeadScores]) -> dict[str, Any]:
    """Return a checkpoint's heads: means as in a history's row, and their 95 % intervals over sequences.

    >>> import torch
    >>> scores = HeadScores("mine", (0,), {"induction": torch.tensor([[[0.25]], [[0.25]]])})
    >>> make_head_row(8, [scores])["intervals"]
    {'heads/induction/mine/L0H0': [0.25, 0.25]}
    """
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for scores in found:
        metrics |= scores.metrics()
        for score in scores.values:
            low, high = scores.interval(score)
            for row, head in np.ndindex(low.shape):
                name = HeadMetric(score, scores.evaluator, scores.layers[row], head).name
                if name in metrics:
                    intervals[name] = [float(low[row, head]), float(high[row, head])]
    return {"step": step, "metrics": metrics, "intervals": intervals}


def make_effect_row(step: int, changes: Mapping[str, Change], effects: Sequence[Effect]) -> dict[str, Any]:
    """Return what changes do at a checkpoint: settings, metrics, and gaps to the intact model."""
    return {
        "step": step,
        "effects": [
            {
                "name": effect.name,
                "change": changes[effect.name].to_dict() if effect.name in changes else None,
                "metrics": effect.metrics,
                "changes": {metric: list(three) for metric, three in effect.changes.items()},
            }
            for effect in effects
        ],
    }
