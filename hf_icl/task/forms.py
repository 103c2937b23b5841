"""How sequences reach a model: as vectors for an `ICLModel`, or as tokens for any `AutoModelForCausalLM`.

A form turns a batch of indices into a model's inputs and reads label logits back. Evaluators, callback and
trainer know no more of a model than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hf_icl.banks.bank import Bank
from hf_icl.errors import ConfigError
from hf_icl.philox import normals
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.prompt import Template, make_template, write_nothing
from hf_icl.task.wrapped import list_parameters
from hf_icl.task.written import PromptConfig

IGNORED = -100  # a label that transformers' losses leave out
LM_HINT = (
    "Load it with AutoModelForCausalLM.from_pretrained, or build it with AutoModelForCausalLM.from_config."
)


class LabelAnswers(NamedTuple):
    """What a language model says of the labels of a bank.

    Attributes:
        labels: Their logits, or log-probabilities, (n_sequences, n_labels).
        is_first: Whether a label is the likeliest of all that could be said, bool (n_sequences, n_labels).
    """

    labels: Tensor
    is_first: Tensor


class Form(Protocol):
    """One way of putting sequences to a model."""

    def encode(self, bank: Bank, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return the keyword arguments of the model's forward, on the bank's device."""

    def read_labels(self, bank: Bank, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Return the labels of the context and the right one from what `encode` gave; None if it holds none.

        Both are in the form's own numbers, (n_sequences, n_context) and (n_sequences,).
        """

    def predict(self, bank: Bank, model: nn.Module, batch: SequenceBatch) -> Tensor:
        """Return label logits at the query, shape (n_sequences, n_labels)."""

    def check_model(self, bank: Bank, model: nn.Module, n_context: int) -> None:
        """Raise `ConfigError` if a model cannot be asked in this form."""


class VectorForm:
    """Exemplars as vectors, images or ids, labels as ids of their own: what `ICLModel` takes."""

    def encode(self, bank: Bank, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return `exemplars`, `context_answers` and the query's `labels`."""
        return {
            "exemplars": look_up(bank, batch),
            "context_answers": batch.labels[:, :-1],
            "labels": batch.labels[:, -1],
        }

    def read_labels(self, bank: Bank, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Return them as ids of labels."""
        context, right = inputs.get("context_answers"), inputs.get("labels")
        return None if context is None or right is None else (context, right)

    def predict(self, bank: Bank, model: nn.Module, batch: SequenceBatch) -> Tensor:
        """Return the logits of the model's own label head."""
        return model(exemplars=look_up(bank, batch), context_answers=batch.labels[:, :-1]).logits

    def check_model(self, bank: Bank, model: nn.Module, n_context: int) -> None:
        """Refuse a model that says how many labels its head has, and has too few;
        and a bare language model."""
        n_labels = getattr(getattr(model, "config", None), "n_labels", bank.n_labels)
        if n_labels < bank.n_labels:
            rule = f"the head has fewer labels than the {bank.n_labels} of the task's bank"
            hint = "Build the model with ICLModel.from_backbone(backbone, task.bank), or take another task."
            raise ConfigError("n_labels", n_labels, rule, hint)
        takes = list_parameters(model)
        if "exemplars" not in takes and "input_ids" in takes:
            rule = "takes tokens, and this task gives vectors"
            hint = 'Wrap it: ICLModel.from_backbone(model, task.bank). Or set the task\'s form to "tokens".'
            raise ConfigError("model", type(model).__name__, rule, hint)


@dataclass(frozen=True)
class TokenForm:
    """Exemplars and labels as ids of a vocabulary: what any causal language model takes, nothing wrapped.

    A sequence reads `start x1 between l1 after … xq between lq`, see `hf_icl.task.prompt`; `labels` are −100
    everywhere but at lq, as transformers' own loss wants them (it shifts by one place). The places before lq
    are a prompt for `generate`, whose next token answers.

    In a vocabulary of its own, exemplar e of class k is token k · n_exemplars + e, and labels follow. Freshly
    initialised embeddings know nothing of classes: take one exemplar per class, start the table from the bank
    (`fill_token_table`), or take a bank of kind `vocabulary`.

    Attributes:
        template: What stands around exemplars and labels; None: nothing but what the tokenizer puts before
            every text.
    """

    template: Template | None = None

    def find_template(self, bank: Bank) -> Template:
        """Return what stands around a bank's exemplars and labels."""
        return self.template or make_template(PromptConfig(), bank)

    def encode(self, bank: Bank, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return `input_ids` and `labels`, both int64 (n_sequences, places + 1)."""
        input_ids = torch.cat([self.prompt(bank, batch), label_tokens(bank)[batch.labels[:, -1:]]], dim=1)
        labels = torch.full_like(input_ids, IGNORED)
        labels[:, -1] = input_ids[:, -1]
        return {"input_ids": input_ids, "labels": labels}

    def prompt(self, bank: Bank, batch: SequenceBatch) -> Tensor:
        """Return the tokens before the answer, int64 (n_sequences, places)."""
        labels = label_tokens(bank)[batch.labels[:, :-1]]
        return self.find_template(bank).fill(exemplar_tokens(bank, batch), labels)

    def read_labels(self, bank: Bank, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Return them as tokens."""
        tokens, right = inputs.get("input_ids"), inputs.get("labels")
        if tokens is None or right is None:
            return None
        template = self.find_template(bank)
        n_context = template.count_pairs(tokens.shape[1] - 1)
        places = template.label_places(n_context).to(tokens.device)
        return tokens[:, places[:-1]], tokens[:, -1]

    def predict(self, bank: Bank, model: nn.Module, batch: SequenceBatch) -> Tensor:
        """Return the logits of the label tokens where the answer stands; all others are left aside."""
        return self._predict_tokens(model, self.prompt(bank, batch))[:, label_tokens(bank)]

    def read_answers(
        self, bank: Bank, model: nn.Module, batch: SequenceBatch, *, content_free: bool = False
    ) -> LabelAnswers:
        """Return what a model says of each label, and whether it would say it of all it could.

        Args:
            bank: Whose labels are asked for, on the model's device.
            model: What is asked.
            batch: The sequences, on the model's device.
            content_free: Ask for `N/A` instead of the query's exemplar: what is left is the prior of labels.

        Raises:
            ConfigError: If the bank has no tokenizer that could write `N/A`.
        """
        prompt = self.prompt(bank, batch)
        if content_free:
            place = int(self.find_template(bank).exemplar_places(batch.labels.shape[1] - 1)[-1])
            nothing = prompt.new_tensor(write_nothing(bank)).expand(len(prompt), -1)
            prompt = torch.cat([prompt[:, :place], nothing, prompt[:, place + 1 :]], dim=1)
        logits = self._predict_tokens(model, prompt)
        tokens = label_tokens(bank)
        return LabelAnswers(logits[:, tokens], logits.argmax(1)[:, None] == tokens)

    def _predict_tokens(self, model: nn.Module, prompt: Tensor) -> Tensor:
        """Return the logits of all tokens after prompts, (n_sequences, vocabulary)."""
        options = without_cache(model) | (
            {"logits_to_keep": 1} if "logits_to_keep" in list_parameters(model) else {}
        )
        return model(input_ids=prompt, **options).logits[:, -1]

    def read_logits(self, bank: Bank, logits: Tensor, labels: Tensor) -> Tensor:
        """Return label logits from a whole language-model output, wherever padding has put the query.

        Use it as a stock `Trainer`'s `preprocess_logits_for_metrics`, with the bank bound.

        Args:
            bank: Whose labels are asked for.
            logits: (n_sequences, places, vocabulary).
            labels: int64 (n_sequences, places), −100 but for one place, as `encode` gives them, then padded.

        Returns:
            (n_sequences, n_labels), at the place before the query's label.
        """
        places = (labels != IGNORED).int().argmax(1) - 1
        return logits[torch.arange(len(logits), device=logits.device), places][:, label_tokens(bank)]

    def check_model(self, bank: Bank, model: nn.Module, n_context: int) -> None:
        """Refuse models that are no causal language models,
        or whose vocabulary does not hold the bank's tokens."""
        name, takes = type(model).__name__, list_parameters(model)
        if "input_ids" not in takes:
            rule, hint = "takes no tokens, and this task gives tokens", 'Set the task\'s form to "vectors".'
            raise ConfigError("model", name, rule, hint if "exemplars" in takes else LM_HINT)
        if getattr(model.config, "is_encoder_decoder", False):
            raise ConfigError(
                "model", name, "must not be an encoder-decoder", "Take a decoder such as GPT-2."
            )
        table = model.get_output_embeddings()
        if table is None:
            raise ConfigError("model", name, "has no language-model head", LM_HINT)
        size, needed = table.weight.shape[0], count_tokens(bank)
        if size < needed:
            rule = f"its vocabulary of {size} has fewer tokens than the {needed} of the task's bank"
            hint = (
                "Take the model that the bank's vocabulary was read from, or build one with that vocab_size."
            )
            raise ConfigError("model", name, rule, hint)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
        n_places = self.count_places(bank, n_context)
        if 0 < limit < n_places:
            rule = f"makes {n_places} places of tokens, and the model's positions reach to {limit}"
            hint = "Shorten the context or the prompt, or take another model."
            raise ConfigError("n_context", n_context, rule, hint)
        self._check_causal(bank, model)

    def count_places(self, bank: Bank, n_context: int) -> int:
        """Return how many places a sequence takes, its answer too."""
        return self.find_template(bank).count_places(n_context) + 1

    def list_prompts(self, bank: Bank, batch: SequenceBatch) -> list[list[int]]:
        """Return the tokens before each sequence's answer."""
        return self.prompt(bank, batch).tolist()

    @torch.no_grad()
    def _check_causal(self, bank: Bank, model: nn.Module) -> None:
        """Refuse a model whose answer depends on the place after it: training would hand it the label."""
        tokens = label_tokens(bank).unique()[:2].to(model.device)
        if len(tokens) < 2:
            return
        prompts = torch.stack([tokens[[0, 1, 0]], tokens[[0, 1, 1]]])
        was_training = model.training
        model.eval()
        try:
            logits = model(input_ids=prompts, **without_cache(model)).logits[:, 1].float()
        finally:
            model.train(was_training)
        if not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-4):
            rule = "sees later places, so that in training it would read the answer"
            raise ConfigError("model", type(model).__name__, rule, "Take a causal language model.")


def look_up(bank: Bank, batch: SequenceBatch) -> Tensor:
    """Look up the exemplars of a batch, with the within-class noise that its spec asks for.

    Noise is normal, in units of the bank's root-mean-square feature, and a function of (seed, stream, index,
    place) alone: x' = (x + noise · scale · z) / sqrt(1 + noise²).

    Returns:
        float32 (n_sequences, n_context + 1, *shape), or int64 (n_sequences, n_context + 1) for a bank of ids.
    """
    exemplars = bank.lookup(batch.class_ids, batch.exemplar_ids)
    if batch.noise is None:
        return exemplars
    n_values = exemplars[0].numel()
    z = normals(batch.index, n_values, seed=batch.seed, stream=batch.stream)
    noise = batch.noise.view(-1, *[1] * (exemplars.ndim - 1))
    return (exemplars + noise * bank.scale * z.view_as(exemplars)) / (1 + noise.square()).sqrt()


def exemplar_tokens(bank: Bank, batch: SequenceBatch) -> Tensor:
    """Return the token of each exemplar, int64 (n_sequences, n_context + 1)."""
    if bank.vocabulary:
        return bank.rows[batch.class_ids, batch.exemplar_ids]
    return batch.class_ids * bank.n_exemplars + batch.exemplar_ids


def label_tokens(bank: Bank) -> Tensor:
    """Return the token of each label, int64 (n_labels,), on the bank's device."""
    if bank.vocabulary:
        return bank.vocabulary.label_tokens
    return torch.arange(bank.n_ids, bank.n_ids + bank.n_labels, device=bank.labels.device)


def count_tokens(bank: Bank) -> int:
    """Return the size of the smallest vocabulary that holds a bank's exemplars and labels."""
    return bank.vocabulary.size if bank.vocabulary else bank.n_ids + bank.n_labels


@torch.no_grad()
def fill_token_table(model: nn.Module, bank: Bank) -> None:
    """Start the exemplars' rows of a fresh model's token table from a bank of vectors,
    so that classes show in it.

    Features are turned into the table's width by one fixed random projection and scaled to the spread of the
    rows that are there.

    Raises:
        ConfigError: If the bank has no vectors, or its tokens are those of a trained vocabulary.
    """
    if bank.kind == "ids" or bank.vocabulary is not None:
        rule = "only a bank of vectors or images can fill the table of a fresh vocabulary"
        raise ConfigError("bank", bank.name, rule, "Take a bank such as gaussian.")
    table = model.get_input_embeddings().weight
    everything = torch.cartesian_prod(torch.arange(bank.n_classes), torch.arange(bank.n_exemplars))
    exemplars = bank.to("cpu").lookup(*everything.unbind(1)).flatten(1)
    width = table.shape[1]
    projection = normals(torch.arange(exemplars.shape[1]), width, seed=0, stream=0) / width**0.5
    rows = exemplars @ projection.float()
    table[: len(rows)] = (rows * (table.std().cpu() / rows.std())).to(table)


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the option by which a model that could keep its past does not."""
    return {"use_cache": False} if "use_cache" in list_parameters(model) else {}
