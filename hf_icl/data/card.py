"""The card of a data set: what plain `load_dataset` needs, and what a person wants to know of each
configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml

from hf_icl.data.config import DatasetConfig
from hf_icl.errors import ConfigError
from hf_icl.reading import parse_yaml
from hf_icl.sequences.spec import Role
from hf_icl.task.evaluators import EVALUATORS, TRAIN_SPLIT

SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MANY = "n>1M"
FIND_HEAD = re.compile(r"\A---[ \t]*\r?\n(?P<head>.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
FIND_SECTION = re.compile(r"<!-- hf_icl (?P<name>\S+) -->.*?<!-- end of hf_icl (?P=name) -->", re.DOTALL)
NO_REPO = "path/or/repo"
TITLE = "Few-shot sequences of the transience literature"
INTRODUCTION = f"""
# {TITLE}

Each row is a sequence of labelled exemplars and a query, whose label is asked for (the last entry of
`labels`). They show when in-context learning (ICL) appears in a model, and when it fades in favour of
in-weights learning (IWL): Singh et al. 2023 ([arXiv 2311.08360](https://arxiv.org/abs/2311.08360)).
"""
SECTION = """
<!-- hf_icl {name} -->
## {name}

{n_context} labelled exemplars, then the query.

```python
from datasets import load_dataset

rows = load_dataset("{repo}", "{name}", split="train")  # streaming=True reads them one by one
```

| split | rows | what it asks |
|---|---|---|
{splits}

| column | type | meaning |
|---|---|---|
{columns}

Made with `hf_icl`, from these settings alone: the same settings give the same rows.

```yaml
{settings}```
<!-- end of hf_icl {name} -->
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
    head = {
        "pretty_name": TITLE,
        "tags": ["in-context-learning", "transience", "few-shot", "hf_icl"],
        "size_categories": [_categorize([info])],
        "configs": [{"config_name": name, "default": True, "data_files": files}],
        "dataset_info": [info],
    }
    if config.task.bank.licence is not None:
        head = {"license": config.task.bank.licence} | head
    section = SECTION.format(
        name=name,
        repo=NO_REPO,
        n_context=config.task.train_specs[0].n_context,
        splits="\n".join(_describe_split(split, facts) for split, facts in splits.items()),
        columns="\n".join(
            f"| `{column}` | {kind} | {text} |" for column, kind, text in _list_columns(features)
        ),
        settings=yaml.safe_dump(_hide_folders(config.to_dict()), sort_keys=False),
    )
    return join_card(head, INTRODUCTION + section)


def merge_cards(there: str, new: str) -> str:
    """Return the card of a repository once a configuration is added to it,
    or replaced by a new version of itself.

    Everything else stays as it is there: other configurations, other metadata, text around the sections.

    Args:
        there: The repository's README.md.
        new: The card of one configuration, from `write_card`.

    Raises:
        ConfigError: If the metadata of `there` cannot be read.

    >>> merge_cards("---\\nlicense: mit\\n---\\nMine.\\n", "---\\nlicense: apache-2.0\\n---\\n")
    '---\\nlicense:\\n- mit\\n- apache-2.0\\n---\\nMine.\\n'
    """
    (head, body), (new_head, new_body) = split_card(there), split_card(new)
    merged = head | {key: value for key, value in new_head.items() if key not in head}
    for key in ("configs", "dataset_info"):
        if key in new_head:
            merged[key] = _merge_named(head.get(key, []), new_head[key])
    for key in ("tags", "license"):
        if key in new_head:
            merged[key] = _unite(head.get(key), new_head[key])
    if "dataset_info" in new_head:
        merged["size_categories"] = [_categorize(merged["dataset_info"])]
    for section in FIND_SECTION.finditer(new_body):
        same = next((old for old in FIND_SECTION.finditer(body) if old["name"] == section["name"]), None)
        if same is None:
            body = f"{body.rstrip()}\n\n{section[0]}\n"
        else:
            body = body[: same.start()] + section[0] + body[same.end() :]
    return join_card(merged, body)


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return the metadata of a card and the text below.

    Raises:
        ConfigError: If the metadata cannot be read.

    >>> split_card("---\\npretty_name: Mine\\n---\\n# Mine\\n")
    ({'pretty_name': 'Mine'}, '# Mine\\n')
    """
    found = FIND_HEAD.match(text)
    try:
        head = parse_yaml(found["head"]) if found else {}
    except ValueError as error:
        head = error
    if not isinstance(head or {}, dict):
        rule = f"the metadata at its top cannot be read ({' '.join(str(head).split())})"
        raise ConfigError("README.md", text[:40], rule, "Correct it in the repository first.")
    return head or {}, text[found.end() :] if found else text


def join_card(head: Mapping[str, Any], body: str) -> str:
    """Return the text of a card."""
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n{body}"


def _merge_named(there: Any, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace or add entries by `config_name`; only one of them stays the default."""
    entries = [dict(entry) for entry in (there if isinstance(there, list) else [there])]
    places = {entry.get("config_name", "default"): number for number, entry in enumerate(entries)}
    for entry in map(dict, new):
        place = places.get(entry["config_name"])
        others = [old for number, old in enumerate(entries) if number != place]
        if any(old.get("default") for old in others):
            entry.pop("default", None)
        if place is None:
            entries.append(entry)
        else:
            entries[place] = entry
    return entries


def _unite(there: Any, new: Any) -> Any:
    """Return all values that either names, as one value where there is only one and it was no list."""
    lists = [value if isinstance(value, list) else [value] for value in (there, new) if value is not None]
    values = list(dict.fromkeys(value for part in lists for value in part))
    return values if len(values) > 1 or isinstance(new, list) else values[0]


def _categorize(infos: list[dict[str, Any]]) -> str:
    n_rows = sum(split["num_examples"] for info in infos for split in info.get("splits", []))
    return next((text for below, text in SIZE_CATEGORIES if n_rows < below), MANY)


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
    meanings = {kind.split: kind.meaning for kind in EVALUATORS.values()}
    meanings[TRAIN_SPLIT] = "training sequences, row i is sequence i"
    meaning = meanings.get(split, "an evaluator of its own, see the settings")
    return f"| `{split}` | {facts.n_rows:,} | {meaning} |"


def _list_columns(features: datasets.Features) -> list[tuple[str, str, str]]:
    roles = ", ".join(f"{role.value} {role.name.lower()}" for role in Role)
    texts = {
        "index": "number of the sequence in its stream",
        "class_ids": "class of each exemplar",
        "exemplar_ids": "number of each exemplar within its class",
        "labels": "label of each exemplar as shown; the last is the right answer for the query",
        "roles": f"why it stands there: {roles}",
        "noise": "standard deviation of noise to be added to the exemplars, in units of their root mean "
        "square",
        "exemplars": "the exemplars themselves",
    }
    kinds = {entry["name"]: _name_kind(entry) for entry in describe_features(features)}
    return [(name, kinds[name], texts[name]) for name in features]


def _name_kind(entry: Mapping[str, Any] | str) -> str:
    if isinstance(entry, str) or "dtype" in entry:
        return entry if isinstance(entry, str) else entry["dtype"]
    return f"{_name_kind(entry['sequence'])} × {entry.get('length', 'any number')}"
