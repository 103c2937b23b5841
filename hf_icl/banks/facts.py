"""What a report says of a bank: as JSON types, and in a line. Loads no bank, so that reports start soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hf_icl.wording import clean

CLASSES_SHOWN, NAMES_SHOWN = 3, 4  # in a table: classes of each pool; names of each class


class Describable(Protocol):
    """What a `Bank` says of itself."""

    @property
    def name(self) -> str:
        """What it was made from."""

    @property
    def kind(self) -> str:
        """What its exemplars are."""

    @property
    def n_exemplars(self) -> int:
        """Exemplars of each class."""

    @property
    def n_labels(self) -> int:
        """Labels that a head needs."""

    @property
    def class_pools(self) -> Mapping[str, Any]:
        """Class ids by pool."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else there is to tell."""


class Listable(Describable, Protocol):
    """What a `Bank` says of its classes."""

    @property
    def labels(self) -> Any:
        """Labels of each class, a tensor; −1 for none."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Name of each class."""

    @property
    def exemplar_names(self) -> Sequence[Sequence[str]] | None:
        """Name of each exemplar, by class."""

    def name_label(self, label: int) -> str:
        """Return a label as text."""


def describe_bank(bank: Describable) -> dict[str, Any]:
    """Return a bank's name, kind and sizes, and its own facts, as JSON types.

    >>> from hf_icl.banks import GaussianConfig, load_bank
    >>> bank = load_bank(GaussianConfig(n_classes=16, n_holdout_classes=4, n_exemplars=2, dim=8))
    >>> describe_bank(bank)["n_classes"]
    16
    """
    sizes = {
        "n_classes": len(bank.class_pools["train"]),
        "n_holdout_classes": len(bank.class_pools["holdout"]),
        "n_exemplars": bank.n_exemplars,
        "n_labels": bank.n_labels,
    }
    return {"name": bank.name, "kind": bank.kind, **sizes, **bank.facts}


def tell_bank(facts: Mapping[str, Any]) -> str:
    """Return what `describe_bank` says in a line; nothing for runs that were made without it.

    >>> facts = {"name": "vocabulary", "n_classes": 1600, "n_holdout_classes": 0, "n_exemplars": 10}
    >>> spread = {"within": 0.3126, "between": 0.5198, "ratio": 1.663}
    >>> tell_bank(facts | {"source": "openai/gpt2", "metric": "cosine", "spread": spread})
    '1,600 classes × 10 tokens of openai/gpt2, neighbours by cosine; spread within 0.313, between 0.52'
    >>> tell_bank(facts | {"name": "symbolic", "n_holdout_classes": 128, "n_exemplars": 1})
    '1,600 + 128 holdout classes × 1 exemplar, symbolic'
    >>> lengths = {"fewest": 2, "mean": 7.5, "most": 31}
    >>> texts = {"name": "texts", "n_classes": 2, "n_holdout_classes": 0, "n_exemplars": 20}
    >>> tell_bank(texts | {"data": "reviews.csv", "tokens": lengths})
    '2 classes × 20 texts of reviews.csv, 2 to 31 tokens each'
    >>> tell_bank({})
    ''
    """
    if not facts:
        return ""
    holdout = f" + {facts['n_holdout_classes']:,} holdout" if facts["n_holdout_classes"] else ""
    what = "token" if "source" in facts else "exemplar"
    what = "text" if "data" in facts else what
    many = "" if facts["n_exemplars"] == 1 else "s"
    text = f"{facts['n_classes']:,}{holdout} classes × {facts['n_exemplars']:,} {what}{many}"
    if "data" in facts:
        lengths = facts["tokens"]
        return f"{text} of {facts['data']}, {lengths['fewest']} to {lengths['most']} tokens each"
    if "source" not in facts:
        return f"{text}, {facts['name']}"
    text += f" of {facts['source']}, neighbours by {facts['metric']}; spread {_tell_spread(facts['spread'])}"
    if "holdout_spread" in facts:
        text += f" (holdout {_tell_spread(facts['holdout_spread'])})"
    return text


def _tell_spread(spread: Mapping[str, float]) -> str:
    return f"within {spread['within']:.3g}, between {spread['between']:.3g}"


def list_classes(bank: Listable) -> list[list[str]]:
    """Return a row for each of the first classes of each pool: number, name, exemplars, labels, pool.

    >>> from hf_icl.banks import load_bank
    >>> sizes = {"n_classes": 2, "n_holdout_classes": 1, "n_exemplars": 5, "n_labels": None}
    >>> list_classes(load_bank({"kind": "gaussian", **sizes}))[1:]
    [['1', '–', '5', '1', 'train'], ['2', '–', '5', 'none of its own', 'holdout']]
    """
    rows = []
    for pool, class_ids in bank.class_pools.items():
        for class_id in class_ids[:CLASSES_SHOWN].tolist():
            name = clean(bank.class_names[class_id]) if bank.class_names is not None else "–"
            names = bank.exemplar_names and list(map(repr, bank.exemplar_names[class_id]))
            labels = [bank.name_label(label) for label in bank.labels[class_id].tolist() if label >= 0]
            exemplars = _list_first(names) if names else f"{bank.n_exemplars:,}"
            rows.append([str(class_id), name, exemplars, _list_first(labels) or "none of its own", pool])
    return rows


def _list_first(names: Sequence[str]) -> str:
    more = [f"… {len(names) - NAMES_SHOWN:,} more"] if len(names) > NAMES_SHOWN else []
    return ", ".join([*names[:NAMES_SHOWN], *more])
