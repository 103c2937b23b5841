"""Banks of your own exemplars: a .npy or .safetensors file, or a Hugging Face dataset,
grouped into classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError  # numpy reads the heads of its files as Python
from typing import Literal

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pydantic
import safetensors
import torch
from torch import Tensor

from hf_icl.banks.bank import Bank, make_bank, track
from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.pictures import read_picture
from hf_icl.banks.splits import choose_exemplars, split_classes
from hf_icl.config import MOST_CLASSES, MOST_EXEMPLARS
from hf_icl.errors import BankError
from hf_icl.memory import ask_for_memory

N_CHANNELS = (1, 3, 4)
CHUNK_ROWS = 1024
UNREADABLE = (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError, TokenError)


class FeaturesConfig(BankConfigBase):
    """Exemplars from a file or a dataset.

    >>> FeaturesConfig(source="features.npy", n_classes=100).n_holdout_classes
    0
    """

    kind: Literal["features"] = "features"
    source: str = pydantic.Field(
        min_length=1,
        description="A .npy or .safetensors file, a .parquet file, or a folder or Hub name for "
        "datasets.load_dataset.",
    )
    features: str | None = pydantic.Field(
        default=None,
        description="Tensor of the .safetensors, or column of the dataset; null: the only one that it can "
        "be.",
    )
    labels: str | None = pydantic.Field(
        default=None,
        description="Class of each row: a .npy file, a tensor of the .safetensors, or a column of the "
        "dataset (null: label). Null for an array of shape (classes, exemplars, …).",
    )
    split: str = pydantic.Field(default="train", min_length=1, description="Split of the dataset.")
    size: int | None = pydantic.Field(
        default=None,
        ge=2,
        le=1024,
        description="Height and width that a dataset's images are resized to; null: as they are.",
    )
    n_classes: int = pydantic.Field(
        ge=1, le=MOST_CLASSES, description="Training classes, chosen by the seed."
    )
    n_holdout_classes: int = pydantic.Field(
        default=0, ge=0, le=MOST_CLASSES, description="Classes never trained on, chosen by the seed."
    )
    n_exemplars: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=MOST_EXEMPLARS,
        description="Exemplars of each class, the first so many; null: all, which must be equally many.",
    )

    @property
    def is_stackable(self) -> bool:
        """Vectors have a linear encoder; that images have none is found when the model is there."""
        return True

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Read the source, see `load_features`."""
        return load_features(self, seed=seed, progress=progress)


@dataclasses.dataclass(frozen=True)
class Table:
    """Exemplars as rows (n_rows, …), the class of each row, and a name for each class in sorted order,
    if any."""

    data: Tensor
    classes: np.ndarray
    names: Sequence[str] | None = None


def load_features(config: FeaturesConfig, *, seed: int = 0, progress: bool = False) -> Bank:
    """Make a bank of the exemplars in a file or a dataset.

    Vectors (D,) stay vectors. Images are (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels, and are
    looked up with channels first. Arrays of type uint8 are looked up as 0..1, all others as they are. The
    classes are chosen and ordered by `split_classes`; exemplars stay in the order of the file.

    Raises:
        BankError: If the source cannot be read, its shape is none of these, or a class has too few exemplars.
    """
    read = {".npy": _read_npy, ".safetensors": _read_safetensors}.get(
        Path(config.source).suffix, _read_dataset
    )
    return assemble(read(config, progress), config, seed=seed)


def assemble(table: Table, config: FeaturesConfig, *, seed: int, name: str = "features") -> Bank:
    """Make the bank of some rows; see `load_features`."""
    rows, names = _group_rows(table, config)
    chosen = split_classes(
        len(rows), config.n_classes, config.n_holdout_classes, seed=seed, what=f"{config.source}: classes"
    )
    names = None if names is None else [names[c] for c in chosen.tolist()]
    data, rows = _put_channels_first(table.data, config.source), rows[chosen]
    _check_finite(data, rows, config.source)
    return make_bank(name, data, rows, seed=seed, class_names=names, **config.layout)


def _read_npy(config: FeaturesConfig, progress: bool) -> Table:
    array = _open_npy(config.source)
    ask_for_memory(4 * array.size, "source", config.source, "this array, as float32,")
    if array.dtype not in (np.float32, np.uint8):
        if array.dtype.kind not in "fiub":
            raise BankError(
                f"{config.source}: holds {array.dtype}, and features are numbers. Store float32 or uint8."
            )
        array = _to_float32(array)
    classes = None if config.labels is None else _open_npy(config.labels)
    return make_table(torch.from_numpy(array), classes, config)


def _open_npy(path: str) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except UNREADABLE as error:
        raise BankError(f"{path}: not a readable .npy array ({error}). Store one with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise BankError(f"{path}: an archive of several arrays. Store one array with numpy.save.")
    return array


def _read_safetensors(config: FeaturesConfig, progress: bool) -> Table:
    try:
        with safetensors.safe_open(config.source, framework="pt") as file:
            names = sorted(file.keys())
            others = [name for name in names if name != config.labels]
            name = _choose_name(config.features, others, config.source, "tensor")
            n_values = math.prod(file.get_slice(name).get_shape())
            ask_for_memory(4 * n_values, "source", config.source, "this tensor, as float32,")
            data = file.get_tensor(name)
            classes = file.get_tensor(config.labels) if config.labels in names else None
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise BankError(
            f"{config.source}: not a readable safetensors file ({error}). Store it again."
        ) from error
    if config.labels is not None and classes is None:
        if not config.labels.endswith(".npy"):
            raise BankError(
                f"{config.source}: has no tensor {config.labels!r}, only {names}. Set labels to one."
            )
        classes = _open_npy(config.labels)
    if data.is_complex():
        raise BankError(f"{config.source}: holds {data.dtype}, and features are numbers. Store float32.")
    if isinstance(classes, Tensor):
        classes = (classes.double() if classes.is_floating_point() else classes).numpy()
    return make_table(data if data.dtype == torch.uint8 else data.float(), classes, config)


def make_table(data: Tensor, classes: np.ndarray | None, config: FeaturesConfig) -> Table:
    """Take rows with their classes, or an array (classes, exemplars, …) as rows in that order."""
    shape = tuple(data.shape)
    if classes is None:
        if len(shape) < 3:
            rule = f"shape {shape} is not (classes, exemplars, …)"
            raise BankError(f"{config.source}: {rule}. Reshape it, or set labels to the class of each row.")
        return Table(data.flatten(0, 1), np.repeat(np.arange(shape[0]), shape[1]))
    _check_labels(classes, config.labels or config.source)
    if classes.shape != shape[:1]:
        rule = f"labels of shape {classes.shape} do not fit features of shape {shape}"
        raise BankError(f"{config.labels}: {rule}. Give one label for each row.")
    return Table(data, classes, [str(value) for value in np.unique(classes)])


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Return numbers as features; those that are too large become infinite, which is refused later."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _check_labels(classes: np.ndarray, source: str) -> None:
    """Raise `BankError` unless labels are whole numbers or words."""
    kind = classes.dtype.kind
    whole = kind != "f" or bool((np.isfinite(classes) & (classes == np.floor(classes))).all())
    if kind not in "fiubUS" or not whole:
        what = "NaN, infinite or broken numbers" if kind == "f" else str(classes.dtype)
        raise BankError(f"{source}: labels hold {what}, and name classes. Store whole numbers or words.")


def _read_dataset(config: FeaturesConfig, progress: bool) -> Table:
    path = Path(config.source)
    where = (
        {"path": "parquet", "data_files": str(path)} if path.suffix == ".parquet" else {"path": config.source}
    )
    if path.suffix == ".parquet":
        _ask_for_rows(path)
    try:
        dataset = datasets.load_dataset(**where, split=config.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError, pyarrow.ArrowException) as error:
        hint = (
            "Set source to a .npy, .safetensors or .parquet file, or to what load_dataset takes, and split "
            "to a split."
        )
        raise BankError(f"{config.source}: cannot be loaded as a dataset ({error}). {hint}") from error
    return take_dataset(dataset, config, progress)


def _ask_for_rows(path: Path) -> None:
    """Raise `ConfigError` if a table says that it has more rows than memory is left for: equal values pack
    into next to nothing."""
    try:
        about = pyarrow.parquet.read_metadata(path)
    except (OSError, pyarrow.ArrowException):  # who loads it says what is wrong
        return
    n_values = about.num_rows * max(1, about.num_columns)
    ask_for_memory(8 * n_values, "source", str(path), "this table")


def take_dataset(dataset: datasets.Dataset, config: FeaturesConfig, progress: bool = False) -> Table:
    """Take a column of exemplars, and one that names their classes."""
    columns = dataset.features
    labels = _choose_name(config.labels or "label", list(columns), config.source, "column")
    images = [name for name, feature in columns.items() if isinstance(feature, datasets.Image)]
    others = [name for name in columns if name != labels]
    column = _choose_name(
        config.features, others if config.features or len(images) != 1 else images, config.source, "column"
    )
    read = _read_images if column in images else _read_vectors
    classes = _read_column(dataset, labels, config.source)
    if classes.ndim != 1 or classes.dtype.kind not in "iubUS":
        raise BankError(
            f"{config.source}: column {labels!r} does not name classes. Set labels to one that does."
        )
    values, names = np.unique(classes), getattr(columns[labels], "names", None)
    return Table(
        read(dataset, column, config, progress),
        classes,
        [names[value] if names else str(value) for value in values],
    )


def _choose_name(name: str | None, names: Sequence[str], source: str, what: str) -> str:
    """Return the asked-for name if it is there, or the only one there is."""
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        asked = f"no {what} {name!r}" if name else f"more than one {what}" if names else f"no {what}"
        raise BankError(
            f"{source}: {asked} among {list(names)}. Set features and labels to {what}s that it has."
        )
    return name


def _read_images(dataset: datasets.Dataset, column: str, config: FeaturesConfig, progress: bool) -> Tensor:
    """Decode an image column to uint8 (n_rows, H, W) or (n_rows, H, W, 3)."""
    data = None
    stored = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    images = (row[column] for row in stored)
    for row, image in enumerate(track(images, "Decoding images", show=progress, total=len(dataset))):
        image = image or {"bytes": b"", "path": None}
        content = Path(image["path"] or "") if image["bytes"] is None else image["bytes"]
        pixels = read_picture(content, f"{config.source}: image {row}", size=config.size)
        if data is None:
            ask_for_memory(len(dataset) * pixels.size, "source", config.source, "these images, decoded,")
            data = np.empty((len(dataset), *pixels.shape), np.uint8)
        if pixels.shape != data.shape[1:]:
            rule = f"image {row} is {pixels.shape}, the first {data.shape[1:]}"
            raise BankError(f"{config.source}: {rule}. Set size, and store all images in one colour mode.")
        data[row] = pixels
    return torch.from_numpy(data)


def _read_vectors(dataset: datasets.Dataset, column: str, config: FeaturesConfig, progress: bool) -> Tensor:
    data = _read_column(dataset, column, config.source)
    if data.ndim < 2 or data.dtype.kind not in "fiub":
        raise BankError(
            f"{config.source}: column {column!r} does not hold numbers of one shape. Set features to one "
            "that does."
        )
    return torch.from_numpy(data if data.dtype == np.uint8 else _to_float32(data))


def _read_column(dataset: datasets.Dataset, column: str, source: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # infinite, which is refused later
            return np.asarray(dataset.with_format("numpy", columns=[column])[:][column])
    except (OSError, ValueError, TypeError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        raise BankError(f"{source}: column {column!r} cannot be read ({error}). Store it again.") from error


def _group_rows(table: Table, config: FeaturesConfig) -> tuple[Tensor, Sequence[str] | None]:
    """Return the rows of each class, int64 (n_classes, n_exemplars), in the order of the file;
    and class names."""
    if not len(table.classes):
        raise BankError(f"{config.source}: holds no exemplars. Give it some.")
    values, inverse, counts = np.unique(table.classes, return_inverse=True, return_counts=True)
    names = table.names or [str(value) for value in values]
    least, most = int(counts.argmin()), int(counts.argmax())
    if config.n_exemplars is None and counts[least] != counts[most]:
        raise BankError(
            f"{config.source}: class {names[least]} holds {counts[least]} exemplars, class {names[most]} "
            f"{counts[most]}. Set n_exemplars to {counts[least]} or fewer, to take the first so many of each."
        )
    what = f"{config.source}: class {names[least]}"
    n_exemplars = choose_exemplars(
        int(counts[least]), config.n_exemplars, config.n_holdout_exemplars, what=what
    )
    first = np.cumsum(counts) - counts
    order = np.argsort(inverse, kind="stable")
    return torch.from_numpy(order[first[:, None] + np.arange(n_exemplars)]), table.names


def _put_channels_first(data: Tensor, source: str) -> Tensor:
    """Return vectors and (H, W) images as they are, images with channels as (n_rows, C, H, W)."""
    shape = tuple(data.shape[1:])
    if 0 in shape or not 1 <= len(shape) <= 3:
        raise BankError(f"{source}: exemplars of shape {shape} are neither vectors nor images. Reshape them.")
    if len(shape) < 3:
        return data
    first, last = shape[0] in N_CHANNELS, shape[-1] in N_CHANNELS
    if not (first or last):
        raise BankError(
            f"{source}: images of shape {shape} need 1, 3 or 4 channels, first or last. Reshape them."
        )
    return data.movedim(-1, 1) if last and (data.dtype == torch.uint8 or not first) else data


def _check_finite(data: Tensor, rows: Tensor, source: str) -> None:
    if data.dtype == torch.uint8:
        return
    for part in rows.flatten().split(CHUNK_ROWS):
        broken = ~data[part].flatten(1).isfinite().all(1)
        if broken.any():
            rule = f"the exemplar in row {part[broken][0]} has features that are NaN or infinite"
            raise BankError(f"{source}: {rule}. Clean the array.")
