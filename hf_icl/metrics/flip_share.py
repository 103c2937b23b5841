"""Answers from the context against answers from the weights, where the labels of two classes are swapped."""

import evaluate

from hf_icl.errors import ConfigError  # From: hf-icl
from hf_icl.metrics.answers import FEATURES, INPUTS, read_answers  # From: hf-icl
from hf_icl.task.scoring import score  # From: hf-icl

DESCRIPTION = """
Where do a model's answers come from? The context shows two classes whose labels are swapped: the query's
class bears the other's label there. A model that reads the context gives that label, one that knows the class
by heart gives the class's own. Which of the two has the larger logit decides; the share of in-context answers
is 1 for pure in-context learning, 0 for pure in-weights learning, 1/2 for a guess.
"""
USAGE = (
    INPUTS
    + """
    Every context holds two labels: the right one by the context, which is the reference, and the class's own.

Returns:
    in_context_share: Share of sequences where the context's label has a larger logit than the class's own, in
        [0, 1].
    in_context_share_chance: 1/2.
    in_context_accuracy: Share where the context's label has the largest logit of all labels.
    in_weights_accuracy: Share where the class's own label has the largest logit of all labels.
    accuracy_chance: 1 / n_labels, the chance level of the last two.

Example:
    >>> import evaluate
    >>> from hf_icl.metrics import find_metric
    >>> metric = evaluate.load(find_metric("flip_share"))
    >>> metric.compute(
    ...     predictions=[[0.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 9.0]],
    ...     references=[2, 2],
    ...     context_labels=[[1, 2], [2, 1]],
    ... )["in_context_share"]
    0.5
"""
)
CITATION = """
@inproceedings{singh2023transient,
  title={The Transient Nature of Emergent In-Context Learning in Transformers},
  author={Aaditya K. Singh and Stephanie C. Y. Chan and Ted Moskovitz and Erin Grant and Andrew M. Saxe
    and Felix Hill},
  booktitle={NeurIPS}, year={2023}, eprint={2311.08360}, archivePrefix={arXiv}
}
"""


class FlipShare(evaluate.Metric):
    __doc__ = DESCRIPTION + USAGE

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=USAGE,
            features=FEATURES,
            reference_urls=["https://arxiv.org/abs/2311.08360"],
        )

    def _compute(self, predictions, references, context_labels):
        logits, context, target = read_answers(predictions, references, context_labels)
        is_target = context == target[:, None]
        own = context.gather(1, (~is_target).int().argmax(1, keepdim=True))
        two = is_target.any(1) & ~is_target.all(1) & (is_target | (context == own)).all(1)
        if not two.all():
            row = int((~two).nonzero()[0])
            rule = f"sequence {row} must show two labels, the reference {int(target[row])} being one of them"
            raise ConfigError("context_labels", context[row].tolist(), rule, "Leave the query's place out.")
        scores = score(logits, context, target)
        scores["in_weights_accuracy"] = logits.argmax(1) == own.squeeze(1)
        means = {name: values.double().mean().item() for name, values in scores.items()}
        return {
            "in_context_share": means["context_accuracy"],
            "in_context_share_chance": means["context_chance"],
            "in_context_accuracy": means["accuracy"],
            "in_weights_accuracy": means["in_weights_accuracy"],
            "accuracy_chance": 1 / logits.shape[1],
        }
