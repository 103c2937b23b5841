"""Banks of what a program has at hand: arrays, a data set, a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_icl.banks.bank import Bank
from hf_icl.banks.features import FeaturesConfig, Table, assemble, make_table, take_dataset
from hf_icl.errors import BankError

OWN = "own"  # what such a bank is called unless it is named


def bank_from_numpy(
    exemplars: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None = None,
    *,
    name: str = OWN,
    seed: int = 0,
    n_holdout_classes: int = 0,
    **settings: Any,
) -> Bank:
    """Make a bank of an array.

    Args:
        exemplars: Numbers of shape (n_classes, n_exemplars, …), or (n_rows, …) with `labels`; an exemplar is
            (D,), (H, W), (C, H, W) or (H, W, C). Type uint8 is looked up as 0..1, all others as they are.
        labels: Class of each row, shape (n_rows,), numbers or strings.
        name: What reports call it.
        seed: Decides which classes are held out, and labels that classes share.
        n_holdout_classes: Classes that are never trained on.
        **settings: As of a bank of kind `features`: `n_classes` (default: all others), `n_exemplars`,
            `n_holdout_exemplars`, `n_labels`, `labels_per_class`.

    Raises:
        BankError: If shapes do not fit, or numbers are not finite.
        ConfigError: If a setting is unknown or out of range.

    >>> bank = bank_from_numpy(np.random.default_rng(0).normal(size=(40, 5, 16)), n_holdout_classes=8)
    >>> bank
    Bank(32 + 8 holdout classes × 5 exemplars, own; vectors of 16, 32 labels, 0.0 MB on cpu)
    """
    data = _to_tensor(exemplars, name)
    classes = None if labels is None else np.asarray(labels)
    config = FeaturesConfig(source=name, labels=None if labels is None else "labels", n_classes=1)
    return _assemble(make_table(data, classes, config), name, seed, n_holdout_classes, settings)


def bank_from_dataset(
    dataset: datasets.Dataset,
    features: str | None = None,
    labels: str = "label",
    *,
    size: int | None = None,
    name: str = OWN,
    seed: int = 0,
    n_holdout_classes: int = 0,
    progress: bool = False,
    **settings: Any,
) -> Bank:
    """Make a bank of a data set that is loaded already.

    Args:
        dataset: One split, with a column of images or vectors, and one that names classes.
        features: The column of exemplars; None: the only one that it can be.
        labels: The column of classes.
        size: Height and width that images are resized to; None: as they are.
        name: What reports call it.
        seed: Decides which classes are held out, and labels that classes share.
        n_holdout_classes: Classes that are never trained on.
        progress: Show a bar while images are decoded.
        **settings: As for `bank_from_numpy`.

    Raises:
        BankError: If a column is missing, or images differ in shape.

    >>> rows = {"x": [[0.0, 1.0], [0.5, 1.0], [2.0, 2.0], [2.5, 2.0]], "label": ["a", "a", "b", "b"]}
    >>> sorted(bank_from_dataset(datasets.Dataset.from_dict(rows)).class_names)
    ['a', 'b']
    """
    if not isinstance(dataset, datasets.Dataset):
        raise BankError(
            f"{type(dataset).__name__}: is no data set of one split. Name a split, without streaming, as in "
            'load_dataset(…, split="train").'
        )
    config = FeaturesConfig(source=name, features=features, labels=labels, size=size, n_classes=1)
    return _assemble(take_dataset(dataset, config, progress), name, seed, n_holdout_classes, settings)


def bank_from_images(
    folder: str | Path,
    *,
    size: int | None = None,
    name: str | None = None,
    seed: int = 0,
    n_holdout_classes: int = 0,
    progress: bool = False,
    **settings: Any,
) -> Bank:
    """Make a bank of a folder of images, a folder per class: `folder/CLASS/*.png`.

    Args:
        folder: As `datasets` reads it as an `imagefolder`.
        size: Height and width that images are resized to; None: as they are, all of one size.
        name: What reports call it; default: the folder's name.
        seed: Decides which classes are held out, and labels that classes share.
        n_holdout_classes: Classes that are never trained on.
        progress: Show a bar while images are decoded.
        **settings: As for `bank_from_numpy`.

    Raises:
        BankError: If there are no images in folders of classes, or they differ in shape.
    """
    folder = Path(folder)
    try:
        dataset = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise BankError(
            f"{folder}: holds no images to be loaded ({error}). Put them into a folder per class: "
            f"{folder}/CLASS/IMAGE.png"
        ) from error
    if "label" not in dataset.features:
        raise BankError(f"{folder}: its images are in no folders of classes. Put them into one per class.")
    return bank_from_dataset(
        dataset,
        "image",
        size=size,
        name=name or folder.resolve().name,
        seed=seed,
        n_holdout_classes=n_holdout_classes,
        progress=progress,
        **settings,
    )


def _to_tensor(values: np.ndarray | Tensor, name: str) -> Tensor:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bf16
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise BankError(f"{name}: holds {array.dtype}, and exemplars are numbers of one shape.")
    return torch.tensor(array if array.dtype == np.uint8 else array.astype(np.float32))


def _assemble(table: Table, name: str, seed: int, n_holdout_classes: int, settings: dict[str, Any]) -> Bank:
    n_others = len(np.unique(table.classes)) - n_holdout_classes
    sizes = {"n_classes": max(1, n_others), "n_holdout_classes": n_holdout_classes}
    config = FeaturesConfig(**{"source": name} | sizes | settings)
    return assemble(table, config, seed=seed, name=name)
