"""When a curve rises, how high, and what is left of it: onset, peak, half-decay, persistence, verdict."""

import dataclasses

import datasets
import evaluate

from hf_icl.summary import describe_measures, summarize  # From: hf-icl

DESCRIPTION = """
What a curve of accuracies over training says about in-context learning: when it appeared, how high it rose,
and what was left of it at the end. The curve is linear between evaluations.
"""
USAGE = """
Args:
    steps: Training steps of the evaluations, in any order; of equal steps the last counts.
    values: The accuracy or probability at each, in [0, 1]; None or not-a-number is left out.
    chance: Value of a model that knows nothing, in [0, 1].
    floor: Value of a model that names any label of the context without matching exemplars; a curve that never
        tops it has not emerged. 0, the default, if there is no such strategy.
    pretrained: Whether the first evaluation is of a model that was trained before: the rise is then counted
        from the floor, and what was there already is lost, fading, kept or grown.

Returns:
    n_evaluations: Evaluations that counted.
    chance: As given.
    verdict: 'never emerged', 'transient', 'fading', 'still rising' or 'persistent', of what a pretrained
        model had 'lost', 'fading', 'kept' or 'grown'; None with fewer than two evaluations, of a pretrained
        start fewer than four.
""" + "".join(
    f"    {measure['name']}: {measure['words']}\n"
    for measure in describe_measures()
    if measure["name"] != "crossover_step"
)
USAGE += """
Example:
    >>> import evaluate
    >>> from hf_icl.metrics import find_metric
    >>> metric = evaluate.load(find_metric("transience"))
    >>> summary = metric.compute(steps=[0, 100, 200, 300, 400], values=[0, 0.8, 0.6, 0.2, 0], chance=0)
    >>> summary["peak"], summary["onset_step"], summary["half_decay_step"], summary["verdict"]
    (0.8, 50.0, 250.0, 'transient')
"""


class Transience(evaluate.Metric):
    __doc__ = DESCRIPTION + USAGE

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=USAGE,
            features=datasets.Features(
                {"steps": datasets.Value("float64"), "values": datasets.Value("float64")}
            ),
            reference_urls=["https://arxiv.org/abs/2311.08360"],
        )

    def _compute(self, steps, values, chance, floor=0.0, pretrained=False):
        return dataclasses.asdict(summarize(steps, values, chance, floor, pretrained=pretrained))
