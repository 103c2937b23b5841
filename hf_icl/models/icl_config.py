"""Config of the in-context learner, a composite of its own fields and its backbone's config."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from hf_icl.models.backbones import read_backbone_config
from hf_icl.models.checks import is_count, reject_misspelt, require
from hf_icl.models.resnet import BOTTLENECK

ENCODERS = ("linear", "embedding", "resnet")
LAYOUTS = ("interleaved", "paired")


class ICLConfig(PretrainedConfig):
    """What an `ICLModel` reads and answers, and the config of the backbone in between.

    Args:
        n_labels: Labels that the head tells apart, at least 2.
        n_context: Exemplar-label pairs before the query, at least 1. Shorter sequences work too, and longer ones
            as far as the backbone's positions reach.
        exemplar_shape: Shape of one exemplar; () for ids.
        encoder: How an exemplar becomes a vector: "linear" (flattened, then a linear map), "embedding" (a table of
            `n_ids` rows; exemplars are ids) or "resnet" (drawings (H, W) or (C, H, W)).
        n_ids: Rows of that table; None otherwise.
        places: "interleaved" (x1 l1 … xn ln xq, 2 n_context + 1 places) or "paired" (one place holds an exemplar's
            vector plus its label's, the query's holds its vector alone, n_context + 1 places).
        tie_labels: The head's weight is the label table itself, and the head has no bias. Untied, the head is a
            linear map with bias of its own.
        label_init_std: Standard deviation at which the label table starts.
        backbone: A `PretrainedConfig`, or a dict with its `model_type` as `config.json` has it. None: the native
            `CausalTransformerConfig` with its defaults.
        **kwargs: Handed on to `PretrainedConfig`.

    Raises:
        ConfigError: If a value breaks its rule, or a keyword looks like a misspelt one.

    >>> ICLConfig(n_context=8, places="interleaved").n_places
    17
    """

    model_type = "hf_icl"
    sub_configs = {"backbone": AutoConfig}
    attribute_map = {"tie_word_embeddings": "tie_labels"}

    def __init__(
        self,
        n_labels: int = 32,
        n_context: int = 4,
        exemplar_shape: tuple[int, ...] | list[int] = (64,),
        encoder: str = "linear",
        n_ids: int | None = None,
        places: str = "paired",
        tie_labels: bool = False,
        label_init_std: float = 0.3,
        backbone: PretrainedConfig | dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        own = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        reject_misspelt(kwargs, own, self.attribute_map)
        own |= {"exemplar_shape": tuple(exemplar_shape), "backbone": read_backbone_config(backbone)}
        self.backbone = own["backbone"]  # `PretrainedConfig` hands its attention setting down to it
        super().__init__(**kwargs)
        for name, value in own.items():
            setattr(self, name, value)
        self._check()

    def _check(self) -> None:
        require(
            is_count(self.n_labels, 2), "n_labels", self.n_labels, "must be a whole number of at least 2", ""
        )
        require(
            is_count(self.n_context, 1),
            "n_context",
            self.n_context,
            "must be a whole number of at least 1",
            "",
        )
        known = f"must be one of {', '.join(ENCODERS)}"
        require(self.encoder in ENCODERS, "encoder", self.encoder, known, "Vectors take linear.")
        known = f"must be one of {', '.join(LAYOUTS)}"
        require(
            self.places in LAYOUTS, "places", self.places, known, "Paired, the default, has fewer places."
        )
        std_ok = self.label_init_std >= 0
        require(std_ok, "label_init_std", self.label_init_std, "must not be negative", "The default is 0.3.")
        width = getattr(self.backbone, "hidden_size", None)
        rule = "its config must have a hidden_size, the width of its places"
        require(is_count(width, 1), "backbone", self.backbone.model_type, rule, "Take another backbone.")
        limit, n_places = getattr(self.backbone, "max_position_embeddings", None), self.n_places
        rule = f"makes {n_places} {self.places} places, and the backbone's positions reach to {limit}"
        fits = limit is None or n_places <= limit
        require(
            fits, "n_context", self.n_context, rule, "Give the backbone more places, or shorten the context."
        )
        self._check_exemplars(width)

    def _check_exemplars(self, width: int) -> None:
        shape = self.exemplar_shape
        sizes_ok = all(is_count(size, 1) for size in shape)
        require(
            sizes_ok,
            "exemplar_shape",
            shape,
            "must be positive whole numbers",
            "For example (64,) or (28, 28).",
        )
        if self.encoder == "embedding":
            rule, hint = (
                "an exemplar that is an id has shape ()",
                "Leave the shape empty, or take linear exemplars.",
            )
            require(shape == (), "exemplar_shape", shape, rule, hint)
            rule = "exemplars from a table need its number of rows"
            require(is_count(self.n_ids, 1), "n_ids", self.n_ids, rule, "Give the number of different ids.")
            return
        require(
            self.n_ids is None, "n_ids", self.n_ids, "only exemplars from a table have ids", "Leave it out."
        )
        if self.encoder == "linear":
            require(
                len(shape) >= 1, "exemplar_shape", shape, "linear exemplars need a size", "For example (64,)."
            )
            return
        rule = "drawings have shape (height, width) or (channels, height, width)"
        require(len(shape) in (2, 3), "exemplar_shape", shape, rule, "For example (28, 28).")
        rule, hint = (
            f"the ResNet needs a width that is a multiple of {BOTTLENECK}",
            "Change the backbone's width.",
        )
        require(width % BOTTLENECK == 0, "backbone.hidden_size", width, rule, hint)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's places."""
        return self.backbone.hidden_size

    @property
    def n_places(self) -> int:
        """Places of a sequence with `n_context` pairs."""
        return count_places(self.n_context, self.places)


def count_places(n_context: int, layout: str) -> int:
    """Return how many places a backbone sees.

    >>> count_places(2, "interleaved"), count_places(2, "paired")
    (5, 3)
    """
    return 2 * n_context + 1 if layout == "interleaved" else n_context + 1
