"""A bank of exemplars: classes × exemplars × features, their labels, and what is held out of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import rich.console
import rich.progress
import torch
from torch import Tensor

from hf_icl.banks.facts import describe_bank, list_classes, tell_bank
from hf_icl.banks.splits import assign_labels
from hf_icl.wording import clean, render_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIXEL_LEVELS = 255  # a stored uint8 pixel of 255 is looked up as 1.0
SCALE_CHUNK_VALUES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model's own vocabulary that a bank's exemplars and labels are.

    The tokens of exemplars are the bank's `rows`.

    Attributes:
        label_tokens: int64 (n_labels,), the token of each label; none of them is an exemplar's.
        size: Rows of the model's token table.
        prefix: Tokens that the model's tokenizer puts before every text, such as the one that begins a
            sequence.
        names: Text of each token, by its id.
        load_tokenizer: Loads the model's tokenizer, or gives None where it has none; None where nobody knows.
        exemplar_phrases: Of exemplars of several tokens, those of each id in `rows`, which is no token then.
        label_phrases: Of labels of several tokens, those of each; `label_tokens` has their first ones.
    """

    label_tokens: Tensor
    size: int
    prefix: tuple[int, ...] = ()
    names: Mapping[int, str] = dataclasses.field(default_factory=dict, repr=False)
    load_tokenizer: Callable[[], PreTrainedTokenizerBase | None] | None = dataclasses.field(
        default=None, repr=False
    )
    exemplar_phrases: tuple[tuple[int, ...], ...] = dataclasses.field(default=(), repr=False)
    label_phrases: tuple[tuple[int, ...], ...] = dataclasses.field(default=(), repr=False)

    def name_label(self, label: int) -> str:
        """Return the text of a label."""
        tokens = self.label_phrases[label] if self.label_phrases else [int(self.label_tokens[label])]
        return "".join(self.names[token] for token in tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Exemplars that sequences point to, immutable.

    Class ids are 0..n_classes-1: the training classes first, then the holdout classes. An exemplar is the
    pair (class id, exemplar id).

    Attributes:
        name: What it was made from, such as "omniglot".
        kind: "vectors", "images" or "ids": what `lookup` returns.
        shape: Shape of one exemplar: (D,), (H, W), (C, H, W), or () for ids.
        n_exemplars: Exemplars of each class.
        n_labels: Labels that a head needs; labels are 0..n_labels-1.
        labels: int64 (n_classes, labels_per_class); rows of −1 for holdout classes.
        class_pools: Class ids (int64) of "train" and "holdout".
        exemplar_pools: Half-open ranges of exemplar ids: "all", "train" and "holdout", the last possibly
            empty.
        scale: Root mean square of one feature over the training classes, the unit of draw-time noise.
        class_names: Name of each class, where it has one.
        rows: Row of `data` of each exemplar, int64 (n_classes, n_exemplars); the ids themselves in a bank of
            ids.
        data: Stored exemplars (n_rows, *shape), float32, or uint8 for 0..1 in steps of 1/255; None for ids.
        variants: Flip or rotation of each class, int64 (n_classes,) in 0..7, see `turn`; None: as stored.
        vocabulary: For exemplars that are tokens of a model's vocabulary: the other tokens, and what they are
            called.
        exemplar_names: Name of each exemplar by class, where they have names.
        pictures: The images behind vectors that are features of images, under the same ids, to be looked at;
            they stay where they are, a mapped file as a rule, whatever device the bank goes to.
        facts: What else a report tells of it, JSON types only, such as the spread of its classes.

    >>> data, rows = torch.arange(12.0).reshape(6, 2), torch.arange(6).reshape(3, 2)
    >>> bank = make_bank("mine", data, rows, n_holdout_classes=1)
    >>> bank.lookup(torch.tensor([2, 0]), torch.tensor([1, 0])).tolist()
    [[10.0, 11.0], [0.0, 1.0]]
    >>> bank.labels.flatten().tolist(), bank.n_labels
    ([0, 1, -1], 2)
    """

    name: str
    kind: Literal["vectors", "images", "ids"]
    shape: tuple[int, ...]
    n_exemplars: int
    n_labels: int
    labels: Tensor
    class_pools: Mapping[str, Tensor]
    exemplar_pools: Mapping[str, tuple[int, int]]
    rows: Tensor = dataclasses.field(repr=False)
    data: Tensor | None = dataclasses.field(default=None, repr=False)
    scale: float = 1.0
    class_names: Sequence[str] | None = None
    variants: Tensor | None = dataclasses.field(default=None, repr=False)
    vocabulary: Vocabulary | None = None
    exemplar_names: Sequence[Sequence[str]] | None = dataclasses.field(default=None, repr=False)
    pictures: Bank | None = dataclasses.field(default=None, repr=False)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.shape))
        kind = f"{self.kind} of {shape}" if shape else self.kind
        where = f"{self.nbytes / 1e6:,.1f} MB on {self.labels.device}"
        return f"Bank({tell_bank(describe_bank(self))}; {kind}, {self.n_labels:,} labels, {where})"

    def _repr_html_(self) -> str:
        return render_table(["class", "name", "exemplars", "labels", "pool"], list_classes(self), repr(self))

    def name_label(self, label: int) -> str:
        """Return a label as text: that of its tokens, quoted, where it has some, else its number."""
        return str(label) if self.vocabulary is None else repr(self.vocabulary.name_label(label))

    @property
    def n_classes(self) -> int:
        """Classes, training and holdout together."""
        return len(self.labels)

    @property
    def n_ids(self) -> int:
        """Exemplars altogether: the size of a vocabulary with an id for each."""
        return self.n_classes * self.n_exemplars

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors, which every device holds that looks exemplars up."""
        optional = (self.data, self.variants, self.vocabulary and self.vocabulary.label_tokens)
        tensors = [self.labels, self.rows, *self.class_pools.values(), *optional]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def lookup(self, class_ids: Tensor, exemplar_ids: Tensor) -> Tensor:
        """Return the exemplars at ids of any one shape (…), on the bank's device.

        Returns:
            float32 (…, *shape); for a bank of ids int64 (…), class id · n_exemplars + exemplar id.
        """
        rows = self.rows[class_ids, exemplar_ids]
        if self.data is None:
            return rows
        exemplars = self.data.index_select(0, rows.flatten()).view(*rows.shape, *self.data.shape[1:])
        if self.variants is not None:
            exemplars = turn(exemplars, self.variants[class_ids])
        return exemplars.float().div_(PIXEL_LEVELS) if exemplars.dtype == torch.uint8 else exemplars

    def to(self, device: str | torch.device) -> Bank:
        """Return the bank with all its tensors on `device`; the bank itself where they are there already."""
        if self.labels.device == torch.device(device):
            return self
        pools = {name: ids.to(device) for name, ids in self.class_pools.items()}
        optional = {name: getattr(self, name) for name in ("data", "rows", "variants")}
        moved = {name: tensor.to(device) for name, tensor in optional.items() if tensor is not None}
        if self.vocabulary is not None:
            tokens = self.vocabulary.label_tokens.to(device)
            moved["vocabulary"] = dataclasses.replace(self.vocabulary, label_tokens=tokens)
        return dataclasses.replace(self, labels=self.labels.to(device), class_pools=pools, **moved)


def turn(images: Tensor, variants: Tensor) -> Tensor:
    """Return square images (…, H, H), each flipped or rotated by its variant (…):
    the 8 symmetries of a square.

    Bit 4 of a variant mirrors in the main diagonal, then bit 1 from left to right, then bit 2 from top to
    bottom, so 0 leaves as is, 3 is half a turn, 6 and 5 are a quarter turn counter-clockwise and clockwise.

    >>> turn(torch.tensor([[1, 2], [3, 4]]).expand(8, 2, 2), torch.arange(8))[6].tolist()
    [[2, 4], [1, 3]]
    """
    bits = variants[..., None, None]
    images = torch.where((bits & 4).bool(), images.mT, images)
    images = torch.where((bits & 1).bool(), images.flip(-1), images)
    return torch.where((bits & 2).bool(), images.flip(-2), images)


def make_bank(
    name: str,
    data: Tensor | None,
    rows: Tensor,
    *,
    n_holdout_classes: int = 0,
    n_holdout_exemplars: int = 0,
    n_labels: int | None = None,
    labels_per_class: int = 1,
    seed: int = 0,
    scale: float | None = None,
    class_names: Sequence[str] | None = None,
    variants: Tensor | None = None,
    vocabulary: Vocabulary | None = None,
) -> Bank:
    """Put a bank together: the last `n_holdout_classes` and exemplars are held out, and labels are given.

    Args:
        name: What the bank is called in reports.
        data: Stored exemplars (n_rows, D), (n_rows, H, W) or (n_rows, C, H, W); float32 or uint8. None for
            ids.
        rows: Row of `data` of each exemplar, or id of each exemplar, int64 (n_classes, n_exemplars).
        n_holdout_classes: How many of the classes, from the end, are not for training.
        n_holdout_exemplars: How many exemplars of each class, from the end, are not for training.
        n_labels: Labels shared at random, or None for labels of their own; see `assign_labels`.
        labels_per_class: Labels of each class.
        seed: Seed of the labels.
        scale: Root mean square of a feature; measured over the training classes if left out.
        class_names: One per class.
        variants: Flip or rotation of each class, see `turn`.
        vocabulary: For exemplars that are tokens of a model's vocabulary.
    """
    n_classes, n_exemplars = rows.shape
    n_train = n_classes - n_holdout_classes
    labels, n_labels = assign_labels(
        n_train, n_holdout_classes, n_labels=n_labels, labels_per_class=labels_per_class, seed=seed
    )
    shape = () if data is None else tuple(data.shape[1:])
    if scale is None:
        scale = 1.0 if data is None else measure_scale(data, rows[:n_train])
    split = n_exemplars - n_holdout_exemplars
    return Bank(
        name=name,
        kind=("ids", "vectors", "images", "images")[len(shape)],
        shape=shape,
        n_exemplars=n_exemplars,
        n_labels=n_labels,
        labels=labels,
        class_pools={"train": torch.arange(n_train), "holdout": torch.arange(n_train, n_classes)},
        exemplar_pools={"all": (0, n_exemplars), "train": (0, split), "holdout": (split, n_exemplars)},
        scale=scale,
        class_names=class_names,
        rows=rows,
        data=data,
        variants=variants,
        vocabulary=vocabulary,
    )


def measure_scale(data: Tensor, rows: Tensor) -> float:
    """Return the root mean square of the features of some rows of stored data,
    in units of looked-up features."""
    n_features = math.prod(data.shape[1:])
    parts = rows.flatten().split(max(1, SCALE_CHUNK_VALUES // n_features))
    total = sum(float(data[part].double().square_().sum()) for part in parts)
    unit = PIXEL_LEVELS if data.dtype == torch.uint8 else 1
    return math.sqrt(total / (rows.numel() * n_features)) / unit


def track(items: Sequence | Iterable, description: str, *, show: bool, total: int | None = None) -> Iterable:
    """Iterate with a progress bar on standard error, if it is to be shown."""
    if not show:  # a disabled bar of rich < 14.3 still writes an empty line at its end
        return items
    console = rich.console.Console(stderr=True)
    return rich.progress.track(items, clean(description), total=total, console=console, transient=True)
