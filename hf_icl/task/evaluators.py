"""The standard evaluators: what each asks, what counts as right, and what it is called.
Everything else reads it here.

An evaluator asks whether a model answers from its context (in-context learning, ICL) or from its weights
(in-weights learning, IWL). Metrics are named `<evaluator>/<measure>`, as in `icl/accuracy`. Loads no torch,
so that reports start soon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from hf_icl.sequences.spec import SequenceSpec

TRAIN_LOSS = "train/loss"
PREFERENCE = "strategy/preference"
"""S = E_IWL / (E_ICL + E_IWL), computed from the errors of two evaluators; see `hf_icl.summary`."""
TRAIN_SPLIT = "train"
SIDE_METRICS = {
    "text/loss": "Loss on the held text, nats per token",
    "repeats/icl_score": "ICL score on repeated random tokens, nats",
    "repeats/prefix_matching": "Prefix matching of the best head, repeated random tokens",
    "prompt/vocabulary_accuracy": "ICL accuracy in the whole vocabulary",
    "prompt/calibrated_accuracy": "ICL accuracy, calibrated by the prior of labels",
    "prompt/calibrated_context_accuracy": "ICL accuracy of the context's labels, calibrated",
    "prompt/label_spread": "Spread over labels of ICL accuracy, of the context's labels",
}
"""What else a language model can do, measured by instruments, and what it is called."""


@dataclass(frozen=True)
class EvaluatorKind:
    """A standard evaluator.

    Attributes:
        name: Its metrics, its stream, its split of a data set and its setting in `task.evaluators` are called
            so.
        title: For people.
        short: The same in 12 characters.
        meaning: What its sequences are, and who can answer: part of a sentence.
        make_spec: From the context length of training, at least 2, to how its sequences are drawn; None: as
            in training.
        table: Measures of its primary metric that the summary table shows; None: all.
        is_shown: Whether charts show it before anybody asks.
        part: Of one that draws classes otherwise than uniformly, which; see `frequency_specs`.
    """

    name: str
    title: str
    short: str
    meaning: str
    make_spec: Callable[[int], SequenceSpec] | None = None
    table: tuple[str, ...] | None = None
    is_shown: bool = True
    part: Literal["trained", "head", "tail"] | None = None

    @property
    def measure(self) -> str:
        """The measure to look at, see `choose_measure`."""
        return choose_measure(None if self.make_spec is None else self.make_spec(2))

    @property
    def metric(self) -> str:
        """The metric to look at.

        >>> EVALUATORS["flip"].metric
        'flip/context_accuracy'
        """
        return f"{self.name}/{self.measure}"

    @property
    def split(self) -> str:
        """Its split in a data set: `train` itself is the training sequences',
        whose place its fresh ones must not take."""
        return "train_eval" if self.name == TRAIN_SPLIT else self.name


def choose_measure(spec: SequenceSpec | None) -> str:
    """Return the measure to look at: accuracy over all labels;
    for swapped labels the in-context share of answers."""
    return "context_accuracy" if spec is not None and spec.labels == "swapped" else "accuracy"


def _two_classes(n_context: int) -> SequenceSpec:
    shots = n_context // 2
    return SequenceSpec(n_context=2 * shots, burst=shots, distractor=True)


def _remapped(n_context: int) -> SequenceSpec:
    return _two_classes(n_context).replace(labels="remapped", n_remap=2)


def _alone(n_context: int) -> SequenceSpec:
    return SequenceSpec(n_context=n_context, burst=0, distractor=False, fillers="different", query="absent")


_STANDARD = (
    EvaluatorKind(
        "icl",
        "ICL",
        "ICL",
        "2 classes share the context under labels drawn anew (the first two; of a trained vocabulary any "
        "two): only the context can tell",
        _remapped,
    ),
    EvaluatorKind(
        "icl_holdout",
        "ICL, held-out classes",
        "ICL holdout",
        "the same with classes that training never shows",
        lambda n_context: _remapped(n_context).replace(classes="holdout"),
        table=("peak", "half_decay_step", "final", "late", "late_persistence"),
    ),
    EvaluatorKind(
        "iwl",
        "IWL",
        "IWL",
        "the query's class and label are absent from the context: only the weights can tell",
        _alone,
        table=("onset_step", "final", "late"),
    ),
    EvaluatorKind(
        "ciwl",
        "CIWL",
        "CIWL",
        "the query's class is absent, its label pasted on a random exemplar of the context",
        lambda n_context: _alone(n_context).replace(labels="pasted"),
        table=("peak", "final", "late"),
    ),
    EvaluatorKind(
        "flip",
        "Flip",
        "flip",
        "the labels of the two classes are swapped; the answer of the context counts as right",
        lambda n_context: _two_classes(n_context).replace(labels="swapped"),
        table=("peak", "crossover_step", "final", "late"),
    ),
    EvaluatorKind(
        "train",
        "Training sequences",
        "train",
        "fresh sequences of the training distribution",
        table=(),
        is_shown=False,
    ),
)
PARTS = {
    "trained": (None, "classes as frequent as in training", "classes are drawn as in training"),
    "head": ((0.0, 0.25), "likeliest classes", "all classes are of the likeliest quarter"),
    "tail": ((0.75, 1.0), "rarest classes", "all classes are of the rarest quarter"),
}
"""Part of a Zipfian training to its ranks, and what evaluators of it are called and mean."""


def _by_frequency(kind: EvaluatorKind, part: str) -> EvaluatorKind:
    ranks, title, meaning = PARTS[part]
    return replace(
        kind,
        name=f"{kind.name}_{part}",
        title=f"{kind.title}, {title}",
        short=f"{kind.short} {part}",
        meaning=f"{kind.meaning}; {meaning}",
        make_spec=lambda n_context: kind.make_spec(n_context).replace(ranks=ranks),
        table=("peak", "final", "late"),
        is_shown=False,
        part=part,
    )


EVALUATORS: dict[str, EvaluatorKind] = {kind.name: kind for kind in _STANDARD}
"""By name, in the order in which they are shown.

Source: Singh et al. 2023 (arXiv 2311.08360) and 2025 (arXiv 2503.05631).
"""
EVALUATORS |= {
    kind.name: kind
    for kind in (_by_frequency(EVALUATORS[name], part) for name in ("icl", "iwl") for part in PARTS)
}
ICL, IWL, CIWL, FLIP_SHARE = (EVALUATORS[name].metric for name in ("icl", "iwl", "ciwl", "flip"))
"""The metrics that say which strategy a model follows."""


def standard_specs(n_context: int) -> dict[str, SequenceSpec]:
    """Return the evaluators of the transience literature that have a spec of their own (all but `train`).

    Args:
        n_context: Context length of the training sequences, at least 2. An odd one is rounded down where two
            classes share the context.

    Returns:
        - `icl`: 2 classes with n_context/2 shots each, their labels remapped at random to {0, 1}, or by a
          task to any two (`TaskConfig.icl_labels`).
        - `icl_holdout`: the same on classes that training never shows.
        - `iwl`: the query's class and label are absent, so only the weights can know.
        - `ciwl`: the query's class is absent, its label pasted on a random context exemplar.
        - `flip`: the labels of the two classes are swapped; the in-context answer counts as right.

    Source: Singh et al. 2023 (arXiv 2311.08360) and 2025 (arXiv 2503.05631).

    >>> sorted(standard_specs(4))
    ['ciwl', 'flip', 'icl', 'icl_holdout', 'iwl']
    >>> standard_specs(4)["icl"].burst
    2
    """
    return {
        name: kind.make_spec(n_context)
        for name, kind in EVALUATORS.items()
        if kind.make_spec is not None and kind.part is None
    }


def frequency_specs(n_context: int, zipf: float) -> dict[str, SequenceSpec]:
    """Return `icl` and `iwl` once more by how frequent their classes are in a Zipfian training.

    The standard evaluators draw classes uniformly whatever the training, so that under a skewed training a
    low IWL partly means that most classes were rarely seen.

    Args:
        n_context: Context length of the training sequences, at least 2.
        zipf: Exponent of the training's class frequencies.

    Returns:
        - `icl_trained`, `iwl_trained`: classes as frequent as in training.
        - `icl_head`, `iwl_head`: the likeliest quarter of the classes, uniformly.
        - `icl_tail`, `iwl_tail`: the rarest quarter, uniformly.

    >>> specs = frequency_specs(4, zipf=1.5)
    >>> specs["iwl_trained"].zipf, specs["iwl_trained"].ranks, specs["iwl_tail"].ranks
    (1.5, None, (0.75, 1.0))
    """
    kinds = [kind for kind in EVALUATORS.values() if kind.part is not None]
    return {
        kind.name: kind.make_spec(n_context).replace(zipf=zipf if kind.part == "trained" else 0.0)
        for kind in kinds
    }


def title_metric(metric: str) -> str:
    """Return a metric's name for people.

    >>> title_metric("icl/accuracy"), title_metric("flip/context_accuracy"), title_metric("mine/probability")
    ('ICL accuracy', 'Flip, in-context share', 'mine probability')
    >>> title_metric("icl_holdout/accuracy")
    'ICL accuracy, held-out classes'
    """
    if metric == TRAIN_LOSS:
        return "Training loss"
    if metric in SIDE_METRICS:
        return SIDE_METRICS[metric]
    if metric == PREFERENCE:
        return "S, IWL's share of the errors of ICL and IWL"
    evaluator, _, measure = metric.rpartition("/")
    kind = EVALUATORS.get(evaluator)
    if kind is not None and measure == kind.measure == "context_accuracy":
        return f"{kind.title}, in-context share"
    title, comma, more = (kind.title if kind is not None else evaluator).partition(",")
    return f"{title} {measure.replace('_', ' ')}".strip() + comma + more
