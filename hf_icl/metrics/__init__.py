"""Modules for `evaluate`: thin shells over `hf_icl.task.scoring` and `hf_icl.summary`,
which define every number.

Each works in three ways: `evaluate.load(find_metric("flip_share"))` from an installed package,
`evaluate.load("user/flip_share")` once `hf-icl metrics push user/flip_share` has made its Space, and
directly, as `hf_icl.metrics.flip_share.FlipShare()`.
"""

from __future__ import annotations

from importlib import resources

from hf_icl.config import suggest
from hf_icl.errors import ConfigError

METRICS = {
    "query_accuracy": "Accuracy at the query, over all labels and over the labels in context, with chance "
    "levels.",
    "flip_share": "Answers from the context against answers from the weights, where two labels are swapped.",
    "transience": "When a curve rises, how high, and what is left of it: onset, peak, half-decay, "
    "persistence, verdict.",
}


def find_metric(name: str) -> str:
    """Return the file of a metric, for `evaluate.load` and `evaluate.combine`.

    Raises:
        ConfigError: If there is none of that name.

    >>> import evaluate
    >>> metric = evaluate.load(find_metric("transience"))
    >>> metric.compute(steps=[0, 10, 20], values=[0, 1, 0], chance=0)["verdict"]
    'transient'
    """
    if name not in METRICS:
        raise ConfigError("metric", name, "there is no such metric", suggest(name, METRICS))
    return str(resources.files("hf_icl.metrics") / f"{name}.py")
