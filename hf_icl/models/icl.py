"""The in-context learner: exemplars and labels in, logits of the query's label out, around any backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_icl.errors import ConfigError
from hf_icl.models.encoders import make_encoder
from hf_icl.models.families import (
    check_attentions,
    drop_token_table,
    list_backbone_options,
    read_backbone_config,
)
from hf_icl.models.icl_config import ICLConfig, check_reach

ENCODER_OF_BANK = {"vectors": "linear", "images": "resnet", "ids": "embedding"}


@dataclass
class ICLOutput(ModelOutput):
    """What an `ICLModel` returns.

    Attributes:
        loss: Cross-entropy on the query's label, a mean over the batch, in nats; None without labels.
        logits: float32, shape (batch, n_labels), at the query's place.
        hidden_states: Of the backbone, each (batch, places, d_model), if asked for.
        attentions: Of the backbone, each (batch, heads, places, places), if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ICLModel(PreTrainedModel):
    """Reads exemplars with their labels and a query, and predicts the query's label.

    Works around every backbone of transformers that takes `inputs_embeds` and returns `last_hidden_state`. A
    token table that such a backbone brings along is taken off (of a ready one too), since nothing would read
    it. Of what `forward` takes only the query's answer is called `labels`: a stock `Trainer` takes whatever
    has "label" in its name for a target.

    Args:
        config: Its `backbone` says what to build.
        backbone: A ready backbone to use instead of a fresh one; it must be of that config.

    Raises:
        ConfigError: If the backbone cannot be fed with vectors.

    >>> model = ICLModel(ICLConfig(n_labels=3, n_context=2, exemplar_shape=(5,)))
    >>> output = model(torch.zeros(7, 3, 5), torch.tensor([[0, 2]] * 7), labels=torch.tensor([2] * 7))
    >>> output.logits.shape, output.loss.shape
    (torch.Size([7, 3]), torch.Size([]))
    """

    config_class = ICLConfig
    main_input_name = "exemplars"
    accepts_loss_kwargs = True  # the Trainer then passes num_items_in_batch and leaves the loss as it is
    _supports_sdpa = True
    _tied_weights_keys = {"head.weight": "label_embedding.weight"}

    def __init__(self, config: ICLConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.label_embedding = nn.Embedding(config.n_labels, width)
        self.exemplar_encoder = make_encoder(config)
        self.backbone = AutoModel.from_config(config.backbone) if backbone is None else backbone
        self.head = nn.Linear(width, config.n_labels, bias=not config.tie_labels)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self._backbone_options = list_backbone_options(self.backbone)
        drop_token_table(self.backbone)
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: PretrainedConfig | PreTrainedModel | None = None,
        bank: Any = None,
        *,
        encoder: str | None = None,
        **settings: Any,
    ) -> Self:
        """Build a model around a backbone, sized for a bank.

        Args:
            backbone: A config (the backbone is then fresh), a model (used with its weights, and without its
                token table; of a model with a language-model head, the part below it), or None for the native
                default.
            bank: A `Bank`; gives `n_labels`, `exemplar_shape`, the encoder by its kind, and `n_ids`.
            encoder: As in `ICLConfig`; None leaves it to the bank, or to the default.
            **settings: More fields of `ICLConfig`, over those that the bank gives.

        Raises:
            ConfigError: As `ICLConfig` and `ICLModel` do.

        >>> from transformers import GPT2Config
        >>> gpt2 = GPT2Config(n_layer=2, n_embd=64, n_head=8, n_positions=16)
        >>> model = ICLModel.from_backbone(gpt2, n_labels=10, n_context=4, exemplar_shape=(28, 28))
        >>> model.config.n_places, model.config.hidden_size
        (5, 64)
        """
        given = settings if encoder is None else settings | {"encoder": encoder}
        settings = given if bank is None else read_bank(bank) | given
        if isinstance(backbone, PreTrainedModel):
            body = backbone.base_model
            model = cls(ICLConfig(backbone=body.config, **settings), backbone=body)
            return model.to(device=body.device, dtype=body.dtype)
        return cls(ICLConfig(backbone=read_backbone_config(backbone), **settings))

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.label_embedding:
            nn.init.normal_(module.weight, std=self.config.label_init_std)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """Return the label table, (n_labels, d_model)."""
        return self.label_embedding

    def forward(
        self,
        exemplars: Tensor,
        context_answers: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ICLOutput:
        """Predict the query's label.

        Args:
            exemplars: float (batch, n_context + 1, *exemplar_shape), or int64 ids (batch, n_context + 1);
                query last.
            context_answers: int64 (batch, n_context), the label shown with each exemplar but the query's,
                0 <= label < n_labels.
            labels: int64 (batch,), the query's; −100 leaves a sequence out of the loss.
            output_attentions: Also return attention weights. Backbones other than the native one must have
                been built with `attn_implementation="eager"`.
            output_hidden_states: Also return the backbone's hidden states.
            num_items_in_batch: What the loss is summed over and divided by in place of the batch; the Trainer
                gives the number of sequences of one optimizer step, so that accumulated batches weigh as one.

        Raises:
            ConfigError: If shapes do not fit the config or each other, or the sequence is longer than the
                positions allow, or the backbone gives no attention weights.
        """
        want_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        want_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        self._check_inputs(exemplars, context_answers)
        output = self.backbone(
            inputs_embeds=self.embed(exemplars, context_answers),
            output_attentions=want_attentions,
            output_hidden_states=want_states,
            **self._backbone_options,
        )
        if want_attentions:
            check_attentions(output.attentions)
        logits = self.head(output.last_hidden_state[:, -1]).float()
        return ICLOutput(
            loss=None if labels is None else measure_loss(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=output.hidden_states if want_states else None,
            attentions=output.attentions if want_attentions else None,
        )

    def embed(self, exemplars: Tensor, context_answers: Tensor) -> Tensor:
        """Return what the backbone sees, shape (batch, places, d_model), positions not yet added."""
        batch, n_exemplars = exemplars.shape[:2]
        if exemplars.is_floating_point():
            exemplars = exemplars.to(self.head.weight.dtype) * self.config.exemplar_scale
        vectors = self.exemplar_encoder(exemplars)
        labels = self.label_embedding(context_answers)
        if self.config.places == "paired":
            return vectors + F.pad(labels, (0, 0, 0, 1))
        pairs = torch.stack([vectors[:, :-1], labels], dim=2).view(batch, 2 * n_exemplars - 2, -1)
        return torch.cat([pairs, vectors[:, -1:]], dim=1)

    def _check_inputs(self, exemplars: Tensor, context_answers: Tensor) -> None:
        """Check shapes, with nothing that would wait for a device."""
        config, shape = self.config, tuple(exemplars.shape)
        if shape[2:] != config.exemplar_shape or exemplars.is_floating_point() == (
            config.encoder == "embedding"
        ):
            kind = "int64 ids" if config.encoder == "embedding" else "floats"
            size = ", ".join(map(str, ("batch", "n_context + 1", *config.exemplar_shape)))
            raise ConfigError("exemplars", (shape, exemplars.dtype), f"must be {kind} of shape ({size})", "")
        if tuple(context_answers.shape) != (shape[0], shape[1] - 1):
            rule = f"must have shape ({shape[0]}, {shape[1] - 1}), one label for each exemplar but the query"
            raise ConfigError(
                "context_answers", tuple(context_answers.shape), rule, "The query's goes into labels."
            )
        check_reach(config, shape[1] - 1)


def measure_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the cross-entropy in nats, as a mean over the labels that are not −100,
    or a sum over `num_items`.

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    >>> measure_loss(logits, torch.tensor([0, -100]))
    tensor(0.6931)
    >>> measure_loss(logits, torch.tensor([0, 1]), num_items_in_batch=4)
    tensor(0.3466)
    """
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


def read_bank(bank: Any) -> dict[str, Any]:
    """Return the fields of `ICLConfig` that a bank decides."""
    encoder = ENCODER_OF_BANK[bank.kind]
    n_ids = bank.n_ids if encoder == "embedding" else None
    return {"n_labels": bank.n_labels, "exemplar_shape": bank.shape, "encoder": encoder, "n_ids": n_ids}
