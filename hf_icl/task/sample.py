"""The sequences whose answers are kept while a model trains: the first few of each evaluator."""

from __future__ import annotations

from typing import Any

from hf_icl.banks.bank import Bank
from hf_icl.task.task import Task

N_ANSWERS, MOST_ANSWERS = 8, 1000  # sequences of an evaluator whose answers are kept: by default, at most
MOST_LABEL_NAMES = 4096


def describe_sample(task: Task, count: int = N_ANSWERS) -> dict[str, Any]:
    """Return the first sequences of each evaluator, JSON types only: what a report needs to show answers.

    Args:
        task: Whose evaluators.
        count: How many of each; 0 gives an empty mapping.

    Returns:
        `sequences`: evaluator name to sequences, each with `index`, its number in the evaluator's stream,
        and, place by place with the query last, `classes`, `exemplars`, `labels` (the last is the right
        answer), and `names` of exemplars, or else of classes, where they have some. `label_names`: what
        labels are called; None where they are numbers, or more than 4,096.

    >>> from hf_icl.task.config import TaskConfig
    >>> task = Task(TaskConfig(bank={"kind": "symbolic", "n_classes": 9}, n_eval_sequences=20))
    >>> first = describe_sample(task, 2)["sequences"]["iwl"][0]
    >>> sorted(first), len(first["labels"])
    (['classes', 'exemplars', 'index', 'labels'], 5)
    """
    if not count:
        return {}
    bank = task.bank
    sequences = {
        name: [_describe_sequence(bank, *columns) for columns in _list_columns(evaluator.batch[:count])]
        for name, evaluator in task.evaluators.items()
    }
    return {"label_names": _name_labels(bank), "sequences": sequences}


def _list_columns(batch) -> zip:
    columns = (batch.index, batch.class_ids, batch.exemplar_ids, batch.labels)
    return zip(*(column.tolist() for column in columns), strict=True)


def _describe_sequence(
    bank: Bank, index: int, classes: list[int], exemplars: list[int], labels: list[int]
) -> dict[str, Any]:
    found = {"index": index, "classes": classes, "exemplars": exemplars, "labels": labels}
    if bank.exemplar_names is not None:
        places = zip(classes, exemplars, strict=True)
        found["names"] = [bank.exemplar_names[class_id][exemplar] for class_id, exemplar in places]
    elif bank.class_names is not None:
        found["names"] = [bank.class_names[class_id] for class_id in classes]
    return found


def _name_labels(bank: Bank) -> list[str] | None:
    if bank.vocabulary is None or not bank.vocabulary.names or bank.n_labels > MOST_LABEL_NAMES:
        return None
    return [bank.vocabulary.name_label(label) for label in range(bank.n_labels)]
