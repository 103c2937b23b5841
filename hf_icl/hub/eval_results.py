"""Results in the form that model pages and leaderboards on the Hub read,
beside the card's own model-index."""

from __future__ import annotations

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import cut_at_divergence
from hf_icl.summary.summary import summarize
from hf_icl.task.evaluators import EVALUATORS

EVAL_RESULTS_FILE = ".eval_results/hf_icl.yaml"


def list_eval_results(
    run: RunRecord, dataset: str, *, source_url: str | None = None
) -> list[EvalResultEntry]:
    """Return the last value of each evaluator, by the split of the data set that holds its sequences.

    Args:
        run: What was measured.
        dataset: The data set on the Hub, from `hf-icl data push`; a result belongs to one.
        source_url: Where the numbers can be looked up, such as the report.

    Returns:
        An entry per evaluator: its accuracy over all labels at the end of training, for `flip` the in-context
        share.

    >>> rows = [{"step": 0, "metrics": {"icl/accuracy": 0.1}}, {"step": 9, "metrics": {"icl/accuracy": 0.8}}]
    >>> chance = {"icl/accuracy": 0.1, "icl/context_accuracy": 0.5}
    >>> run = RunRecord("mine", {}, {}, rows, chance, {"icl": 1000})
    >>> [(entry.task_id, entry.value, entry.notes) for entry in list_eval_results(run, "me/sequences")]
    [('icl', 0.8, 'accuracy over all labels at training step 9, chance 0.1, 1,000 sequences')]
    """
    source = {"source_url": source_url, "source_name": "hf_icl report"} if source_url else {}
    entries, run = [], cut_at_divergence(run)
    for name in run.n_sequences:
        kind = EVALUATORS.get(name)
        metric = kind.metric if kind is not None else f"{name}/accuracy"
        steps, values = run.curve(metric)
        if not steps.size or metric not in run.chance:
            continue
        final = summarize(steps, values, run.chance[metric]).final
        what = "accuracy over all labels" if metric.endswith("/accuracy") else "share of in-context answers"
        notes = (
            f"{what} at training step {int(steps[-1]):,}, chance {run.chance[metric]:.4g}, "
            f"{run.n_sequences[name]:,} sequences"
        )
        split = kind.split if kind is not None else name
        entries.append(EvalResultEntry(dataset_id=dataset, task_id=split, value=final, notes=notes, **source))
    return entries


def render_eval_results(run: RunRecord, dataset: str, *, source_url: str | None = None) -> str:
    """Return the text of `.eval_results/hf_icl.yaml`; the arguments are those of `list_eval_results`."""
    entries = list_eval_results(run, dataset, source_url=source_url)
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
