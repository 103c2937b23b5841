"""What else a language model can do while it is fine-tuned: loss on held text, and what it makes of repeats.

Both are instruments of `Task.measure`, `text` and `repeats`, in the rows of the evaluators; `prompted` has
a third.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_icl.circuits.attention import Visitor, check_heads, visit
from hf_icl.circuits.heads import match_prefix, score_context
from hf_icl.errors import ConfigError
from hf_icl.files import explain
from hf_icl.philox import draw_words, stream_of, uniform_below
from hf_icl.summary.heads import HeadMetric
from hf_icl.task.forms import TokenForm, count_tokens
from hf_icl.task.measuring import Reading
from hf_icl.task.task import Task
from hf_icl.task.wrapped import see_through

TEXT, REPEATS = "text", "repeats"
WINDOW = 512  # places, of models that have as many
EARLY, LATE = 50, 500  # Olsson et al.'s places, in a window of that length
REPEATS_STREAM = stream_of("instrument/repeats")
SCORED = 8  # windows in a model at a time
CHARACTERS_PER_TOKEN = 16  # of text that is read for so many tokens; what is left over is not


class LanguageInstrument(ABC):
    """An instrument for language models, which says beforehand whether it can be used."""

    @abstractmethod
    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return what was found."""

    @abstractmethod
    def check(self, task: Task, model: nn.Module) -> None:
        """Raise `ConfigError` if it cannot be."""

    def check_reads_tokens(self, task: Task, name: str) -> None:
        """Raise `ConfigError` unless a task is asked of language models."""
        if not isinstance(task.form, TokenForm):
            rule = "is for language models, and this task gives vectors"
            raise ConfigError(f"evaluate.{name}", name, rule, "Leave it out, or set task.form=tokens.")


@dataclass
class TextInstrument(LanguageInstrument):
    """Mean loss, in nats per token, on the first windows of a held text: `text/loss`.

    The text is cut by the model's own tokenizer into windows one after another; of each the first token is
    given and the others count. Losses of models with other vocabularies cannot be compared.

    Args:
        source: A text file, or a data set: a folder, or a name on the Hub.
        column: Of a data set, the column with the text.
        split: Of a data set, the part.
        n_windows: Windows that count; fewer where the text is shorter.
        window: Tokens of each, as many as the model has places for at most.
        tokenizer: The model's; None: the one beside its weights.

    >>> TextInstrument("held.txt", n_windows=4).window
    512
    """

    source: str
    column: str = "text"
    split: str = "test"
    n_windows: int = 16
    window: int = WINDOW
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    _tokens: Tensor | None = field(default=None, repr=False, compare=False)

    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return the mean loss.

        Raises:
            ConfigError: If there is no text, no tokenizer, or the model reads no tokens.
        """
        self.check(task, model)
        losses = [measure_losses(model, part) for part in self._tokens.split(SCORED)]
        return Reading({f"{TEXT}/loss": torch.cat(losses).double().mean().item()}, {})

    def check(self, task: Task, model: nn.Module) -> None:
        """Read and cut the text, once.

        Raises:
            ConfigError: If that cannot be done.
        """
        self.check_reads_tokens(task, TEXT)
        if self._tokens is None:
            self._tokens = self._cut(model, fit_window(model, self.window))

    def _cut(self, model: nn.Module, window: int) -> Tensor:
        tokenizer = self.tokenizer or find_tokenizer(model)
        text = read_text(self.source, self.column, self.split, self.n_windows * window * CHARACTERS_PER_TOKEN)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        n_windows = min(self.n_windows, len(ids) // window)
        if not n_windows:
            rule = f"holds {len(ids)} tokens, and a window takes {window}"
            raise ConfigError(
                "evaluate.text.source", self.source, rule, "Take a longer text, or lower window."
            )
        return torch.tensor(ids[: n_windows * window]).view(n_windows, window)


@dataclass(frozen=True)
class RepeatInstrument(LanguageInstrument):
    """What a model makes of random tokens given twice: `repeats/icl_score` and `repeats/prefix_matching`.

    Sequences are t1 … tS t1 … tS, tokens drawn uniformly from the exemplars of the bank (all of a fresh
    vocabulary), the same at every evaluation. Only what stands before can tell the second half. A vocabulary
    bank's tokens are each other's neighbours, which are harder to copy than any tokens: SmolLM2-135M goes
    from 14.1 to 9.1 nats on them, and from 13.5 to 2.7 on tokens of the whole vocabulary.

    - `repeats/icl_score`: loss at an early place less that at a late one, in nats; see `score_context`. The
      places are Olsson et al.'s 50 and 500 in a window of 512; in one of n places they are 50 n / 512 and
      500 n / 512, rounded down.
    - `repeats/loss_first`, `repeats/loss_second`: mean loss of the first half and of the second.
    - `repeats/prefix_matching`: of the head with the most; see `match_prefix`. Every head's is
      `heads/prefix_matching/repeats/L1H3`.

    Source: Olsson et al. 2022 (arXiv 2209.11895).

    Args:
        n_sequences: Sequences.
        window: Their length, as many as the model has places for at most.
    """

    n_sequences: int = 8
    window: int = WINDOW

    def __call__(self, task: Task, model: nn.Module, *, batch_size: int, spread: bool) -> Reading:
        """Return the scores.

        Raises:
            ConfigError: If the model reads no tokens, or has no attention to look into.
        """
        self.check(task, model)
        half = fit_window(model, self.window) // 2
        tokens = self.draw(task, half)
        matcher, losses = _Matcher(half), []
        with visit(model, matcher):
            for part in tokens.split(SCORED):
                losses.append(measure_losses(model, part))
        losses_BP = torch.cat(losses)
        early, late = (2 * half * place // WINDOW for place in (EARLY, LATE))
        heads = {layer: torch.cat(parts).double().mean(0) for layer, parts in matcher.found.items()}
        means = {
            f"{REPEATS}/icl_score": score_context(losses_BP, early, late).double().mean(),
            f"{REPEATS}/loss_first": losses_BP[:, : half - 1].double().mean(),
            f"{REPEATS}/loss_second": losses_BP[:, half:].double().mean(),
            f"{REPEATS}/prefix_matching": torch.stack([values.max() for values in heads.values()]).max(),
        }
        for layer, values in heads.items():
            for head, value in enumerate(values):
                means[HeadMetric("prefix_matching", REPEATS, layer, head).name] = value
        return Reading({name: float(value) for name, value in means.items()}, {})

    def check(self, task: Task, model: nn.Module) -> None:
        """Raise `ConfigError` if the model reads no tokens, or has no attention to look into."""
        self.check_reads_tokens(task, REPEATS)
        check_heads(model)

    def draw(self, task: Task, half: int) -> Tensor:
        """Return the sequences, int64 (n_sequences, 2 · half): of the task's seed and bank alone."""
        bank = task.bank
        known = bank.rows.unique().cpu() if bank.vocabulary else torch.arange(count_tokens(bank))
        index = torch.arange(self.n_sequences * half)
        words = draw_words(index, 1, seed=task.seed, stream=REPEATS_STREAM)[:, 0]
        once = known[uniform_below(words, len(known))].view(self.n_sequences, half)
        return torch.cat([once, once], dim=1)


class _Matcher(Visitor):
    """Keeps the prefix matching of each layer's heads, and no pattern."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.found: dict[int, list[Tensor]] = {}

    def take_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        matched = match_prefix(pattern, self.period)["prefix_matching"]
        self.found.setdefault(layer, []).append(matched.cpu())
        return pattern


@torch.no_grad()
def measure_losses(model: nn.Module, tokens_BP: Tensor) -> Tensor:
    """Return the loss of every token but the first given those before it, in nats, float32 (n, places − 1).

    Place p of the result is the loss of token p + 1.
    """
    tokens_BP = tokens_BP.to(model.device)
    logits_BPV = model(input_ids=tokens_BP).logits[:, :-1].float()
    return F.cross_entropy(logits_BPV.transpose(1, 2), tokens_BP[:, 1:], reduction="none").cpu()


def fit_window(model: nn.Module, window: int) -> int:
    """Return a window's length, or that of the model's positions where they do not reach so far."""
    limit = getattr(see_through(model).config.get_text_config(), "max_position_embeddings", None)
    return min(window, limit or window)


def find_tokenizer(model: nn.Module) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lies beside a model's weights.

    Raises:
        ConfigError: If there is none.
    """
    inner = see_through(model)
    inner = inner.get_base_model() if hasattr(inner, "peft_config") else inner
    place = getattr(inner, "name_or_path", "")
    hint = "Give it one: TextInstrument(source, tokenizer=…)."
    if not place:
        raise ConfigError(
            "evaluate.text", type(inner).__name__, "comes from nowhere that has a tokenizer", hint
        )
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        rule = f"has no tokenizer that can be loaded ({error})"
        raise ConfigError("evaluate.text", place, rule, hint) from error


def read_text(source: str, column: str, split: str, n_characters: int) -> str:
    """Return the beginning of a text: of a file, or of a data set's rows, put together with empty lines.

    Raises:
        ConfigError: If there is no such text.
    """
    path = Path(source).expanduser()
    if path.is_file():
        with explain(path, "Check the file.", action="read"):
            try:
                with path.open(encoding="utf-8") as file:
                    return file.read(n_characters)
            except UnicodeDecodeError as error:
                raise ConfigError("evaluate.text.source", source, f"is no text in UTF-8 ({error})") from error
    return _read_rows(source, column, split, n_characters)


def _read_rows(source: str, column: str, split: str, n_characters: int) -> str:
    try:
        rows = datasets.load_dataset(source, split=split, streaming=True)
        parts: list[str] = []
        for row in rows:
            parts.append(_take(row, column))
            if sum(map(len, parts)) >= n_characters:
                break
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        rule = f"is neither a text file nor a data set that can be loaded ({' '.join(str(error).split())})"
        raise ConfigError("evaluate.text.source", source, rule, "Check source and split.") from error
    return "\n\n".join(parts)


def _take(row: dict[str, Any], column: str) -> str:
    if not isinstance(row.get(column), str):
        rule = f"a column of texts is needed; there are {', '.join(sorted(row))}"
        raise ConfigError("evaluate.text.column", column, rule, "Name one of them.")
    return row[column]
