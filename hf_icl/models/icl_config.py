"""Config of the in-context learner, a composite of its own fields and its backbone's config."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import pydantic
from transformers import AutoConfig, PretrainedConfig

from hf_icl.config import MOST_CLASSES
from hf_icl.errors import ConfigError
from hf_icl.models.config import LearnerFields, take_fields
from hf_icl.models.families import read_backbone_config
from hf_icl.models.resnet import BOTTLENECK
from hf_icl.sequences.spec import count_places


class _Learner(LearnerFields):
    n_labels: int = pydantic.Field(
        default=32, ge=2, le=MOST_CLASSES, description="Labels that the head tells apart."
    )
    n_context: int = pydantic.Field(
        default=4, ge=1, le=1024, description="Exemplar-label pairs before the query."
    )
    exemplar_shape: tuple[Annotated[int, pydantic.Field(ge=1, le=MOST_CLASSES)], ...] = pydantic.Field(
        default=(64,), max_length=8, description="Of one exemplar; () for ids."
    )
    encoder: Literal["linear", "embedding", "resnet"] = pydantic.Field(
        default="linear",
        description="linear: flattened, then a linear map; embedding: a table of n_ids rows; resnet: for "
        "drawings.",
    )
    n_ids: int | None = pydantic.Field(default=None, ge=1, le=1 << 31, description="Rows of that table.")

    @pydantic.model_validator(mode="after")
    def _check_exemplars(self) -> Self:
        shape, n_ids = self.exemplar_shape, self.n_ids
        if self.encoder == "embedding":
            if shape != ():
                raise ConfigError(
                    "exemplar_shape", shape, "an exemplar that is an id has shape ()", "Leave it empty."
                )
            if n_ids is None:
                rule = "exemplars from a table need its number of rows"
                raise ConfigError("n_ids", n_ids, rule, "Give the number of different ids.")
            return self
        if n_ids is not None:
            raise ConfigError("n_ids", n_ids, "only exemplars from a table have ids", "Leave it out.")
        if self.encoder == "linear" and shape == ():
            raise ConfigError("exemplar_shape", shape, "linear exemplars need a size", "For example (64,).")
        if self.encoder == "resnet" and len(shape) not in (2, 3):
            rule = "drawings have shape (height, width) or (channels, height, width)"
            raise ConfigError("exemplar_shape", shape, rule, "For example (28, 28).")
        return self


class ICLConfig(PretrainedConfig):
    """What an `ICLModel` reads and answers, and the config of the backbone in between.

    Args:
        backbone: A `PretrainedConfig`, or a dict with its `model_type` as `config.json` has it. None: the
            native `CausalTransformerConfig` with its defaults.
        **kwargs:
            - `n_labels` (32): labels that the head tells apart, at least 2.
            - `n_context` (4): exemplar-label pairs before the query, at least 1. Shorter sequences work too,
              and longer ones as far as the backbone's positions reach.
            - `exemplar_shape` ((64,)): shape of one exemplar; () for ids.
            - `encoder` ("linear"): how an exemplar becomes a vector: "linear" (flattened, then a linear map),
              "embedding" (a table of `n_ids` rows; exemplars are ids) or "resnet" (drawings (H, W) or (C, H,
              W)).
            - `n_ids`: rows of that table; None otherwise.
            - `places` ("paired"): one place holds an exemplar's vector plus its label's, the query's holds
              its vector alone, n_context + 1 places; or "interleaved", x1 l1 … xn ln xq, 2 n_context + 1
              places.
            - `tie_labels`, `label_init_std`, `exemplar_scale`: as `LearnerFields` declares them.
            - What `PretrainedConfig` takes.

    Raises:
        ConfigError: If a value breaks its rule, or a keyword looks like a misspelt one.

    >>> ICLConfig(n_context=8, places="interleaved").n_places
    17
    """

    model_type = "hf_icl"
    sub_configs = {"backbone": AutoConfig}
    attribute_map = {"tie_word_embeddings": "tie_labels"}

    def __init__(self, backbone: PretrainedConfig | dict[str, Any] | None = None, **kwargs: Any) -> None:
        own = take_fields(_Learner, kwargs, self.attribute_map)
        # before the others, as `PretrainedConfig` hands its attention setting down to it
        self.backbone = read_backbone_config(backbone)
        super().__init__(**kwargs)
        for name in _Learner.model_fields:
            setattr(self, name, getattr(own, name))
        self._check_backbone()

    def _check_backbone(self) -> None:
        width = getattr(self.backbone, "hidden_size", None)
        if not isinstance(width, int) or width < 1:
            rule = "its config must have a hidden_size"
            raise ConfigError("backbone", self.backbone.model_type, rule, "Take another backbone.")
        check_reach(self, self.n_context)
        if self.encoder == "resnet" and width % BOTTLENECK:
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


def check_reach(config: ICLConfig, n_context: int) -> None:
    """Raise `ConfigError` if sequences with `n_context` pairs are longer than the backbone's positions
    reach."""
    limit = getattr(config.backbone, "max_position_embeddings", None)
    n_places = count_places(n_context, config.places)
    if limit is not None and 0 < limit < n_places:  # some configs say −1 for no limit
        rule = f"makes {n_places} {config.places} places, and the backbone's positions reach to {limit}"
        raise ConfigError(
            "n_context", n_context, rule, "Build the backbone for more places, or shorten the context."
        )
