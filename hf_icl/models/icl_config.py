"""Config of the in-context learner, a composite of its own fields and its backbone's config."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from hf_icl.errors import ConfigError
from hf_icl.models.backbones import read_backbone_config
from hf_icl.models.checks import is_count, is_number, reject_misspelt, require, require_count, require_one_of
from hf_icl.models.resnet import BOTTLENECK

ENCODERS = ("linear", "embedding", "resnet")
LAYOUTS = ("paired", "interleaved")


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
        exemplar_scale: Factor on exemplars before the encoder; nothing for ids. With the encoder's own initial
            weights it sets how loudly exemplars speak beside labels and positions, and how fast the encoder learns.
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
        exemplar_scale: float = 1.0,
        backbone: PretrainedConfig | dict[str, Any] | None = None,
        **kwargs,
    ) -> None:
        own = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        reject_misspelt(kwargs, own, self.attribute_map)
        own["backbone"] = read_backbone_config(backbone)
        if isinstance(exemplar_shape, list):  # JSON has no tuples
            own["exemplar_shape"] = tuple(exemplar_shape)
        self.backbone = own["backbone"]  # `PretrainedConfig` hands its attention setting down to it
        super().__init__(**kwargs)
        for name, value in own.items():
            setattr(self, name, value)
        self._check()

    def _check(self) -> None:
        require_count(self, "n_labels", 2)
        require_count(self, "n_context", 1)
        require_one_of(self, "encoder", ENCODERS)
        require_one_of(self, "places", LAYOUTS)
        require_one_of(self, "tie_labels", (False, True))
        require(
            is_number(self.label_init_std, 0),
            self,
            "label_init_std",
            "must be 0 or more",
            "The default is 0.3.",
        )
        positive = is_number(self.exemplar_scale, 0) and self.exemplar_scale > 0
        require(positive, self, "exemplar_scale", "must be above 0", "The default is 1.")
        kind, width = self.backbone.model_type, getattr(self.backbone, "hidden_size", None)
        if not is_count(width, 1):
            raise ConfigError(
                "backbone", kind, "its config must have a hidden_size", "Take another backbone."
            )
        check_reach(self, self.n_context)
        self._check_exemplars(width)

    def _check_exemplars(self, width: int) -> None:
        shape = self.exemplar_shape
        sizes_ok = isinstance(shape, tuple) and all(is_count(size, 1) for size in shape)
        hint = "For example (64,) or (28, 28)."
        require(sizes_ok, self, "exemplar_shape", "must be a tuple of positive whole numbers", hint)
        if self.encoder == "embedding":
            require(
                shape == (),
                self,
                "exemplar_shape",
                "an exemplar that is an id has shape ()",
                "Leave it empty.",
            )
            rule = "exemplars from a table need its number of rows"
            require(is_count(self.n_ids, 1), self, "n_ids", rule, "Give the number of different ids.")
            return
        require(self.n_ids is None, self, "n_ids", "only exemplars from a table have ids", "Leave it out.")
        if self.encoder == "linear":
            require(shape != (), self, "exemplar_shape", "linear exemplars need a size", "For example (64,).")
            return
        rule = "drawings have shape (height, width) or (channels, height, width)"
        require(len(shape) in (2, 3), self, "exemplar_shape", rule, "For example (28, 28).")
        if width % BOTTLENECK:
            rule = f"the ResNet needs a width that is a multiple of {BOTTLENECK}"
            raise ConfigError("backbone.hidden_size", width, rule, "Change the backbone's width.")

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


def check_reach(config: ICLConfig, n_context: int) -> None:
    """Raise `ConfigError` if sequences with `n_context` pairs are longer than the backbone's positions reach."""
    limit = getattr(config.backbone, "max_position_embeddings", None)
    n_places = count_places(n_context, config.places)
    if limit is not None and 0 < limit < n_places:  # some configs say −1 for no limit
        rule = f"makes {n_places} {config.places} places, and the backbone's positions reach to {limit}"
        raise ConfigError(
            "n_context", n_context, rule, "Build the backbone for more places, or shorten the context."
        )
