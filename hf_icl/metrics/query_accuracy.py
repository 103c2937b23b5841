"""Accuracy at the query, over all labels and over the labels in context, with chance levels."""

import evaluate

from hf_icl.metrics.answers import FEATURES, INPUTS, read_answers  # From: hf-icl
from hf_icl.task.scoring import score  # From: hf-icl

DESCRIPTION = """
Accuracy of a model's answers to few-shot queries: over all labels, and over the labels that stand in the
context, each with the level that guessing reaches. Far above chance over all labels and over those in
context, with labels that only the context can tell: in-context learning.
"""
USAGE = (
    INPUTS
    + """
Returns:
    accuracy: Share of sequences whose right answer has the largest logit of all labels, in [0, 1].
    accuracy_chance: 1 / n_labels.
    context_accuracy: The same among the distinct labels in context. None unless the right answer always is
        one of them.
    context_accuracy_chance: Mean of one over the number of distinct labels in context; None likewise.

Example:
    >>> import evaluate
    >>> from hf_icl.metrics import find_metric
    >>> metric = evaluate.load(find_metric("query_accuracy"))
    >>> metric.compute(
    ...     predictions=[[0.0, 2.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0]],
    ...     references=[2, 0],
    ...     context_labels=[[0, 2], [3, 0]],
    ... )
    {'accuracy': 0.5, 'accuracy_chance': 0.25, 'context_accuracy': 1.0, 'context_accuracy_chance': 0.5}
"""
)
CITATION = """
@misc{singh2025strategy,
  title={Strategy Coopetition Explains the Emergence and Transience of In-Context Learning},
  author={Aaditya K. Singh and Ted Moskovitz and Sara Dragutinovic and Felix Hill and Stephanie C. Y. Chan
    and Andrew M. Saxe},
  year={2025}, eprint={2503.05631}, archivePrefix={arXiv}
}
"""


class QueryAccuracy(evaluate.Metric):
    __doc__ = DESCRIPTION + USAGE

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=USAGE,
            features=FEATURES,
            reference_urls=["https://arxiv.org/abs/2503.05631"],
        )

    def _compute(self, predictions, references, context_labels):
        logits, context, target = read_answers(predictions, references, context_labels)
        scores = score(logits, context, target)
        in_context = bool((context == target[:, None]).any(1).all())
        means = {name: values.double().mean().item() for name, values in scores.items()}
        return {
            "accuracy": means["accuracy"],
            "accuracy_chance": 1 / logits.shape[1],
            "context_accuracy": means["context_accuracy"] if in_context else None,
            "context_accuracy_chance": means["context_chance"] if in_context else None,
        }
