"""The card of an exported data set: what plain `load_dataset` needs, and what a person wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml

from hf_icl.data.config import DatasetConfig
from hf_icl.sequences import Role

LICENSES = {"gaussian": "apache-2.0", "symbolic": "apache-2.0", "omniglot": "mit"}
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MANY = "n>1M"
MEANINGS = {
    "train": "training sequences, row i is sequence i",
    "train_eval": "fresh sequences of the training distribution",
    "icl": "2 classes share the context, their labels remapped at random to {0, 1}: only the context can tell",
    "icl_holdout": "the same with classes that training never shows",
    "iwl": "the query's class and label are absent from the context: only the weights can tell",
    "ciwl": "the query's class is absent, its label pasted on a random exemplar of the context",
    "flip": "the labels of the two classes are swapped; the answer of the context counts as right",
}
BODY = """
# Few-shot sequences of the transience literature: {name}

Each row is a sequence of {n_context} labelled exemplars and a query, whose label is asked for (the last entry of
`labels`). They show when in-context learning (ICL) appears in a model, and when it fades in favour of in-weights
learning (IWL): Singh et al. 2023 ([arXiv 2311.08360](https://arxiv.org/abs/2311.08360)).

```python
from datasets import load_dataset

rows = load_dataset("path/or/repo", "{name}", split="train")  # streaming=True reads them one by one
```

## Splits

| split | rows | what it asks |
|---|---|---|
{splits}

## Columns

| column | type | meaning |
|---|---|---|
{columns}

## Made with

`hf_icl`, from these settings alone: the same settings give the same rows.

```yaml
{settings}```
"""


@dataclass(frozen=True)
class SplitFacts:
    """Size of a written split: rows, bytes in memory, bytes on disk."""

    n_rows: int
    n_bytes: int
    n_file_bytes: int


def write_card(
    name: str, config: DatasetConfig, features: datasets.Features, splits: Mapping[str, SplitFacts]
) -> str:
    """Return the text of README.md, YAML header included.

    Args:
        name: The configuration, and the folder of its Parquet files.
        config: What the rows were made from.
        features: Their columns.
        splits: Size of each split, in the order to be listed.
    """
    info = {
        "config_name": name,
        "features": describe_features(features),
        "splits": [
            {"name": split, "num_bytes": facts.n_bytes, "num_examples": facts.n_rows}
            for split, facts in splits.items()
        ],
        "download_size": sum(facts.n_file_bytes for facts in splits.values()),
        "dataset_size": sum(facts.n_bytes for facts in splits.values()),
    }
    files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in splits]
    n_rows = sum(facts.n_rows for facts in splits.values())
    head = {
        "pretty_name": f"Few-shot sequences ({name})",
        "tags": ["in-context-learning", "transience", "few-shot", "hf_icl"],
        "size_categories": [next((text for below, text in SIZE_CATEGORIES if n_rows < below), MANY)],
        "configs": [{"config_name": name, "default": True, "data_files": files}],
        "dataset_info": [info],
    }
    if licence := LICENSES.get(config.task.bank.kind):
        head = {"license": licence} | head
    body = BODY.format(
        name=name,
        n_context=config.task.train_specs[0].n_context,
        splits="\n".join(_describe_split(split, facts) for split, facts in splits.items()),
        columns="\n".join(
            f"| `{column}` | {kind} | {text} |" for column, kind, text in _list_columns(features)
        ),
        settings=yaml.safe_dump(_hide_folders(config.to_dict()), sort_keys=False),
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{body}"


def describe_features(features: datasets.Features) -> list[dict[str, Any]]:
    """Return the columns as a card names them, in the words that every version of `datasets` from 2 on reads.

    >>> describe_features(datasets.Features({"labels": datasets.Sequence(datasets.Value("int32"), length=5)}))
    [{'name': 'labels', 'sequence': 'int32', 'length': 5}]
    """
    return [{"name": name} | _describe_feature(feature) for name, feature in features.items()]


def _describe_feature(feature: Any) -> dict[str, Any]:
    if isinstance(feature, datasets.Sequence):
        inner = _describe_feature(feature.feature)
        length = {} if feature.length == -1 else {"length": feature.length}
        return {"sequence": inner["dtype"] if list(inner) == ["dtype"] else inner} | length
    return {"dtype": "image" if isinstance(feature, datasets.Image) else feature.dtype}


def describe_for_parquet(features: datasets.Features) -> dict[str, Any]:
    """Return the columns as `datasets` keeps them in the metadata of Parquet, readable from version 2 on."""

    def rename(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {
            key: "Sequence" if (key, value) == ("_type", "List") else rename(value)
            for key, value in node.items()
        }

    return rename(features.to_dict())


def _hide_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Name local files without the folders above them: a card is published."""
    bank = settings["task"]["bank"]
    local = {field: Path(bank[field]).name for field in ("source", "labels") if _is_local(bank.get(field))}
    return settings | {"task": settings["task"] | {"bank": bank | local}}


def _is_local(source: str | None) -> bool:
    return source is not None and Path(source).expanduser().exists()


def _describe_split(split: str, facts: SplitFacts) -> str:
    return f"| `{split}` | {facts.n_rows:,} | {MEANINGS.get(split, 'an evaluator of its own, see the settings')} |"


def _list_columns(features: datasets.Features) -> list[tuple[str, str, str]]:
    roles = ", ".join(f"{role.value} {role.name.lower()}" for role in Role)
    texts = {
        "index": "number of the sequence in its stream",
        "class_ids": "class of each exemplar",
        "exemplar_ids": "number of each exemplar within its class",
        "labels": "label of each exemplar as shown; the last is the right answer for the query",
        "roles": f"why it stands there: {roles}",
        "noise": "standard deviation of noise to be added to the exemplars, in units of their root mean square",
        "exemplars": "the exemplars themselves",
    }
    kinds = {entry["name"]: _name_kind(entry) for entry in describe_features(features)}
    return [(name, kinds[name], texts[name]) for name in features]


def _name_kind(entry: Mapping[str, Any] | str) -> str:
    if isinstance(entry, str) or "dtype" in entry:
        return entry if isinstance(entry, str) else entry["dtype"]
    return f"{_name_kind(entry['sequence'])} × {entry.get('length', 'any number')}"
