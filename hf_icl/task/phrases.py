"""Exemplars and labels of several tokens each: texts, as any causal language model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_icl.banks.bank import Bank
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.forms import IGNORED, LabelAnswers, TokenForm, exemplar_tokens, without_cache
from hf_icl.task.prompt import write_nothing
from hf_icl.task.wrapped import list_parameters

PLACES_AT_ONCE = 2048  # whose logits over the whole vocabulary are in memory together
FILL = 0  # stands behind the end of a row, where no place before it looks


@dataclass(frozen=True)
class PhraseForm(TokenForm):
    """Exemplars and labels as texts. A label is scored by the sum of its tokens' log-probabilities.

    Rows differ in length and are filled up behind their end, which a causal model does not see.
    """

    def list_prompts(
        self, bank: Bank, batch: SequenceBatch, *, content_free: bool = False
    ) -> list[list[int]]:
        """Return the tokens before each sequence's answer."""
        assert bank.vocabulary is not None
        template, labels = self.find_template(bank), bank.vocabulary.label_phrases
        exemplars, rows = bank.vocabulary.exemplar_phrases, []
        nothing = tuple(write_nothing(bank)) if content_free else None
        columns = zip(exemplar_tokens(bank, batch).tolist(), batch.labels.tolist(), strict=True)
        for ids, answers in columns:
            row = list(template.start)
            for number, answer in zip(ids[:-1], answers[:-1], strict=True):
                row += [*exemplars[number], *template.between, *labels[answer], *template.after]
            rows.append([*row, *(nothing or exemplars[ids[-1]]), *template.between])
        return rows

    def prompt(self, bank: Bank, batch: SequenceBatch) -> Tensor:
        """Return the tokens before the answers, int64 (n_sequences, most places), filled up behind."""
        return _fill(self.list_prompts(bank, batch), bank.labels.device)

    def encode(self, bank: Bank, batch: SequenceBatch) -> dict[str, Tensor]:
        """Return `input_ids` and `labels`, both int64 (n_sequences, most places)."""
        assert bank.vocabulary is not None
        prompts = self.list_prompts(bank, batch)
        answers = [bank.vocabulary.label_phrases[label] for label in batch.labels[:, -1].tolist()]
        rows = [[*row, *answer] for row, answer in zip(prompts, answers, strict=True)]
        input_ids = _fill(rows, bank.labels.device)
        labels = torch.full_like(input_ids, IGNORED)
        for number, (row, answer) in enumerate(zip(prompts, answers, strict=True)):
            places = slice(len(row), len(row) + len(answer))
            labels[number, places] = input_ids[number, places]
        return {"input_ids": input_ids, "labels": labels}

    def read_labels(self, bank: Bank, inputs: Mapping[str, Any]) -> None:
        """Return nothing: labels of several tokens have no places of their own."""
        return None

    def predict(self, bank: Bank, model: nn.Module, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of each label as the next text, (n_sequences, n_labels)."""
        return self.read_answers(bank, model, batch).labels

    def read_answers(
        self, bank: Bank, model: nn.Module, batch: SequenceBatch, *, content_free: bool = False
    ) -> LabelAnswers:
        """Return each label's log-probability, and whether each of its tokens is the likeliest next one."""
        assert bank.vocabulary is not None
        rows = self.list_prompts(bank, batch, content_free=content_free)
        phrases = bank.vocabulary.label_phrases
        sums = torch.empty(len(rows), len(phrases), device=bank.labels.device)
        is_first = torch.empty(sums.shape, dtype=torch.bool, device=sums.device)
        stems: dict[tuple[int, ...], list[int]] = {}
        for label, phrase in enumerate(phrases):
            stems.setdefault(tuple(phrase[:-1]), []).append(label)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for stem, labels in stems.items():
            last = torch.tensor([phrases[label][-1] for label in labels], device=sums.device)
            for part in _share_out([len(rows[number]) for number in order], len(stem)):
                numbers = order[part]
                log_p = _read(model, [rows[number] for number in numbers], stem, sums.device)
                path = torch.tensor(stem, dtype=torch.int64, device=sums.device).expand(len(numbers), -1)
                known = log_p[:, :-1].gather(2, path[..., None]).squeeze(2).sum(1)
                best = log_p.argmax(2)
                is_path = (best[:, :-1] == path).all(1)
                where = (
                    torch.tensor(numbers, device=sums.device)[:, None],
                    torch.tensor(labels, device=sums.device),
                )
                sums[where] = known[:, None] + log_p[:, -1, last]
                is_first[where] = is_path[:, None] & (best[:, -1:] == last)
        return LabelAnswers(sums, is_first)

    def count_places(self, bank: Bank, n_context: int) -> int:
        """Return how many places the longest sequence takes, its answer too."""
        assert bank.vocabulary is not None
        template = self.find_template(bank)
        exemplar, label = (
            max(map(len, phrases))
            for phrases in (bank.vocabulary.exemplar_phrases, bank.vocabulary.label_phrases)
        )
        pair = exemplar + len(template.between) + label
        return len(template.start) + n_context * (pair + len(template.after)) + pair

    def read_logits(self, bank: Bank, logits: Tensor, labels: Tensor) -> Tensor:
        """Refuse: the logits of one place say nothing of a label of several tokens."""
        rule = "labels of several tokens are not to be read from one place's logits"
        raise ConfigError("bank", bank.name, rule, "Take the callback's own measures, or Task.predict.")


def _fill(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    most = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[FILL] * (most - len(row))] for row in rows], device=device)


def _share_out(lengths: Sequence[int], n_more: int) -> list[slice]:
    """Return runs of rows, of rising length, that few enough places have to be known of."""
    parts, start = [], 0
    for end in range(1, len(lengths) + 1):
        spread = lengths[min(end, len(lengths) - 1)] - lengths[start] + n_more + 1
        if end == len(lengths) or (end - start + 1) * spread > PLACES_AT_ONCE:
            parts.append(slice(start, end))
            start = end
    return parts


def _read(
    model: nn.Module, rows: Sequence[Sequence[int]], stem: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return log-probabilities after each row, and after each token of a stem behind it.

    Returns:
        float32 (n_rows, len(stem) + 1, vocabulary).
    """
    input_ids = _fill([[*row, *stem] for row in rows], device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    n_places, n_kept = input_ids.shape[1], input_ids.shape[1] - int(lengths.min()) + 1
    options: dict[str, Any] = without_cache(model)
    if "logits_to_keep" in list_parameters(model):
        options["logits_to_keep"] = n_kept
    logits = model(input_ids=input_ids, **options).logits
    first = lengths - 1 - (n_places - logits.shape[1])
    places = first[:, None] + torch.arange(len(stem) + 1, device=device)
    return logits[torch.arange(len(rows), device=device)[:, None], places].float().log_softmax(-1)
