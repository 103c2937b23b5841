"""What instruments find of a language model beside the evaluators, in panels of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from hf_icl.task.evaluators import SIDE_METRICS


@dataclasses.dataclass(frozen=True)
class SidePanel:
    """A small chart over the steps of the large one.

    Attributes:
        title: What is drawn.
        short: The same for a narrow page.
        metrics: Its curves, by name, and what they are called beside one another.
        ends: Lowest and highest value; None: those that are there.
    """

    title: str
    short: str
    metrics: Mapping[str, str]
    ends: tuple[float, float] | None = None


SIDE_PANELS = (
    SidePanel(
        "ICL in the whole vocabulary, calibrated by the prior of labels, and its spread over labels",
        "ICL, asked otherwise",
        {
            "prompt/vocabulary_accuracy": "whole vocabulary",
            "prompt/calibrated_accuracy": "all labels, calibrated",
            "prompt/calibrated_context_accuracy": "the context's, calibrated",
            "prompt/label_spread": "spread over labels",
        },
        (0, 1),
    ),
    SidePanel(
        "Loss on the held text, nats per token", "Held text, nats per token", {"text/loss": "held text"}
    ),
    SidePanel(
        "ICL score on repeated random tokens, nats", "ICL score, nats", {"repeats/icl_score": "repeats"}
    ),
    SidePanel(
        "Prefix matching of the best head, repeated random tokens",
        "Prefix matching, best head",
        {"repeats/prefix_matching": "best head"},
        (0, 1),
    ),
)
"""Every metric of `SIDE_METRICS` stands in one of them."""


def list_sides(metrics: Iterable[str]) -> list[SidePanel]:
    """Return the panels that have a curve, each with those it has.

    >>> [panel.short for panel in list_sides(["icl/accuracy", "text/loss"])]
    ['Held text, nats per token']
    """
    known = set(metrics)
    panels = [
        dataclasses.replace(
            panel, metrics={name: title for name, title in panel.metrics.items() if name in known}
        )
        for panel in SIDE_PANELS
    ]
    return [panel for panel in panels if panel.metrics]


def is_side(metric: str) -> bool:
    """Return whether a metric is of an instrument whose curves have panels of their own.

    >>> is_side("repeats/loss_first"), is_side("icl/accuracy")
    (True, False)
    """
    return metric.partition("/")[0] in {name.partition("/")[0] for name in SIDE_METRICS}
