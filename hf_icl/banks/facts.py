"""What a report is told of a bank, as JSON types."""

from __future__ import annotations

from typing import Any

from hf_icl.banks.base import Bank


def describe_bank(bank: Bank) -> dict[str, Any]:
    """Return a bank's name, kind and sizes, and its own facts, as JSON types.

    >>> from hf_icl.banks import load_bank, GaussianConfig
    >>> describe_bank(load_bank(GaussianConfig(n_classes=16, n_holdout_classes=4, n_exemplars=2, dim=8)))["n_classes"]
    16
    """
    sizes = {
        "n_classes": len(bank.class_pools["train"]),
        "n_holdout_classes": len(bank.class_pools["holdout"]),
        "n_exemplars": bank.n_exemplars,
        "n_labels": bank.n_labels,
    }
    return {"name": bank.name, "kind": bank.kind, **sizes, **bank.facts}
