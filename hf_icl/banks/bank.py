"""A bank of exemplars: classes × exemplars × features, their labels,
and the splits into training and holdout."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import pydantic
import rich.console
import rich.progress
import torch
from torch import Tensor

from hf_icl.banks.facts import describe_bank, list_classes, tell_bank
from hf_icl.config import MOST_CLASSES, MOST_EXEMPLARS, Config
from hf_icl.errors import BankError, ConfigError
from hf_icl.philox import draw_words, stream_of, uniform_below
from hf_icl.wording import clean, render_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_STREAM = stream_of("bank/labels")
SPLIT_STREAM = stream_of("bank/split")

PIXEL_LEVELS = 255  # a stored uint8 pixel of 255 is looked up as 1.0
SCALE_CHUNK_VALUES = 1 << 20


class BankConfigBase(Config, abc.ABC):
    """What all kinds of bank share. Classes are numbered from 0, training classes first,
    then holdout classes.

    A kind of bank is a subclass with a `kind` of its own and a `load`, named in `hf_icl.banks.kinds`.
    """

    licence: ClassVar[str | None] = None
    """Under what its exemplars may be used, as the Hub names it; None: that of what they are made from."""

    seed: int | None = pydantic.Field(
        default=None, ge=0, lt=2**63, description="Seed of features, split and labels; null: the run's seed."
    )
    n_classes: int = pydantic.Field(default=768, ge=1, le=MOST_CLASSES, description="Training classes.")
    n_holdout_classes: int = pydantic.Field(
        default=128,
        ge=0,
        le=MOST_CLASSES,
        description="Classes that are never trained on and have no label of their own.",
    )
    n_exemplars: int = pydantic.Field(
        default=20, ge=1, le=MOST_EXEMPLARS, description="Exemplars of each class, those held out included."
    )
    n_holdout_exemplars: int = pydantic.Field(
        default=0,
        ge=0,
        le=MOST_EXEMPLARS,
        description="Last exemplars of each class, kept from the training pool.",
    )
    n_labels: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=MOST_CLASSES,
        description="Labels that the classes share at random; null: labels of their own for every class.",
    )
    labels_per_class: int = pydantic.Field(
        default=1, ge=1, le=1024, description="Different labels of each class (polysemy)."
    )

    @abc.abstractmethod
    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Make the bank; `load_bank` calls it.

        Args:
            seed: Of features, split and labels.
            progress: Show bars on standard error where it takes long.

        Raises:
            BankError: If the exemplars cannot be had; the message names the file and says what to do.
        """

    def outline(self, *, seed: int) -> Bank:
        """Return a bank of this size without exemplars, see `outline_bank`;
        loaded where the config does not tell it."""
        return self.load(seed=seed)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the exemplars, where the config tells them; 0 where only a file does."""
        return 0

    @property
    def peak_bytes(self) -> int:
        """Bytes that making the bank takes: its exemplars twice, while parts become a whole, and ids."""
        n_ids = self.n_all_classes * ((self.n_exemplars or 1) + 3 * self.labels_per_class)
        return 2 * self.stored_bytes + 8 * n_ids

    @property
    def is_stackable(self) -> bool:
        """Whether models of such a bank have a linear encoder or a table of ids,
        as compiled and stacked steps need."""
        return False

    @property
    def n_head_labels(self) -> int:
        """Labels that a model's head needs, as `assign_labels` counts them."""
        return self.n_classes * self.labels_per_class if self.n_labels is None else self.n_labels

    @property
    def sizes_shape_model(self) -> bool:
        """Whether a model's shapes depend on how many classes and exemplars there are, the head's aside:
        those of a table of ids do, those of a linear encoder do not."""
        return False

    @property
    def n_all_classes(self) -> int:
        """Classes, training and holdout together."""
        return self.n_classes + self.n_holdout_classes

    @property
    def layout(self) -> dict[str, int | None]:
        """What `make_bank` needs of a config."""
        names = ("n_holdout_classes", "n_holdout_exemplars", "n_labels", "labels_per_class")
        return {name: getattr(self, name) for name in names}

    @pydantic.model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.n_exemplars is not None and self.n_holdout_exemplars >= self.n_exemplars:
            rule = f"one of the n_exemplars = {self.n_exemplars} must stay for training"
            raise ConfigError(
                "n_holdout_exemplars", self.n_holdout_exemplars, rule, "Lower n_holdout_exemplars."
            )
        if self.n_labels is not None and self.labels_per_class > self.n_labels:
            rule = f"a class cannot have more different labels than the n_labels = {self.n_labels} there are"
            raise ConfigError("labels_per_class", self.labels_per_class, rule, "Raise n_labels.")
        return self


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


def make_outline(
    config: BankConfigBase, stored: tuple[Sequence[int], torch.dtype] | None, *, seed: int, n_exemplars: int
) -> Bank:
    """Return a bank of a config's size whose exemplars are on torch's `meta` device.

    Args:
        config: Its kind, classes and labels.
        stored: Shape and type of the exemplars that are kept; None for ids.
        seed: Of the labels.
        n_exemplars: Of each class.
    """
    data = None if stored is None else torch.empty(stored[0], dtype=stored[1], device="meta")
    rows = torch.empty(config.n_all_classes, n_exemplars, dtype=torch.int64, device="meta")
    return make_bank(config.kind, data, rows, seed=seed, scale=1.0, **config.layout)


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


def assign_labels(
    n_train: int, n_holdout: int, *, n_labels: int | None, labels_per_class: int = 1, seed: int = 0
) -> tuple[Tensor, int]:
    """Give every training class its labels, each by (seed, class) alone.

    With `n_labels` None, class k has the labels k·L … k·L+L-1, which no other class has. Else each class
    draws L different labels uniformly, so several classes may share one, as in Reddy 2024 (arXiv 2312.03002).

    Returns:
        int64 (n_train + n_holdout, L), −1 for holdout classes, and how many labels there are.

    >>> assign_labels(2, 1, n_labels=None, labels_per_class=2)
    (tensor([[ 0,  1],
            [ 2,  3],
            [-1, -1]]), 4)
    """
    if n_labels is None:
        labels = torch.arange(n_train * labels_per_class).view(n_train, labels_per_class)
    else:
        labels = _draw_distinct(n_train, labels_per_class, n_labels, seed)
    holdout = torch.full((n_holdout, labels_per_class), -1)
    return torch.cat([labels, holdout]), n_train * labels_per_class if n_labels is None else n_labels


def _draw_distinct(n_rows: int, n_picks: int, n_values: int, seed: int) -> Tensor:
    """Draw `n_picks` different values below `n_values` for each row;
    the first picks do not depend on later ones."""
    words = draw_words(torch.arange(n_rows), n_picks, seed=seed, stream=LABEL_STREAM)
    picks = torch.empty(n_rows, 0, dtype=torch.int64)
    for place in range(n_picks):
        pick = uniform_below(words[:, place], n_values - place)  # among the values left over, in their order
        for taken in picks.sort(dim=1).values.unbind(dim=1):
            pick = pick + (pick >= taken)
        picks = torch.cat([picks, pick[:, None]], dim=1)
    return picks


def split_classes(n_available: int, n_train: int, n_holdout: int, *, seed: int, what: str) -> Tensor:
    """Choose training and holdout classes among those of a data set, in one shuffled order.

    Training classes are taken from the start of the order and holdout classes from its end, so each stays
    when the other's number changes (the habit of `google-deepmind/emergent_in_context_learning`).

    Args:
        n_available: Classes of the data set.
        n_train: Training classes.
        n_holdout: Holdout classes.
        seed: Seed of the order.
        what: Names the data set and its classes in the error, such as "omniglot.zip: characters".

    Returns:
        int64 (n_train + n_holdout,): numbers of the chosen classes, training first.

    Raises:
        BankError: If there are too few classes.

    >>> few, many = (split_classes(100, n, 5, seed=0, what="classes") for n in (3, 95))
    >>> few[:3].equal(many[:3]), few[-5:].equal(many[-5:])
    (True, True)
    """
    if n_train + n_holdout > n_available:
        raise BankError(
            f"{what}: {n_available} there, but n_classes = {n_train} for training and n_holdout_classes = "
            f"{n_holdout} make {n_train + n_holdout}. Lower one of them."
        )
    words = draw_words(torch.arange(n_available), 2, seed=seed, stream=SPLIT_STREAM)
    order = torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)
    return torch.cat([order[:n_train], order[n_available - n_holdout :].flip(0)])


def choose_exemplars(n_available: int, n_wanted: int | None, n_holdout: int, *, what: str) -> int:
    """Return how many exemplars of each class to use: those wanted, or all.

    Raises:
        BankError: If there are too few, or all would be held out.
    """
    if n_wanted is not None and n_wanted > n_available:
        raise BankError(
            f"{what}: {n_available} exemplars there, but n_exemplars = {n_wanted}. Lower n_exemplars."
        )
    n_exemplars = n_wanted or n_available
    if n_holdout >= n_exemplars:
        raise BankError(
            f"{what}: {n_exemplars} exemplars, and n_holdout_exemplars = {n_holdout} leaves none for "
            "training. Lower n_holdout_exemplars."
        )
    return n_exemplars


def number_exemplars(n_classes: int, n_exemplars: int) -> Tensor:
    """Return 0, 1, 2 … as int64 (n_classes, n_exemplars)."""
    return torch.arange(n_classes * n_exemplars).view(n_classes, n_exemplars)


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
