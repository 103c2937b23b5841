"""How a sequence is written as a prompt: what stands before, between and after its exemplars and labels.

A template is token ids around the tokens of exemplars and labels. A sequence reads
`start x1 between l1 after x2 between l2 after … xq between`, and the next token answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jinja2
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_icl.banks.bank import Bank
from hf_icl.banks.tokenizer import read_phrase
from hf_icl.errors import ConfigError
from hf_icl.task.written import PromptConfig

Phrase = tuple[int, ...]
MOST_ANCHORS = 16  # words that a template is tried on
NOTHING = " N/A"
EXEMPLAR, LABEL = "⟦exemplar⟧", "⟦label⟧"  # stand for words while a chat template writes around them


@dataclass(frozen=True)
class Template:
    """Token ids around the tokens of exemplars and labels.

    Attributes:
        start: Before the first exemplar, with what the tokenizer puts before every text.
        between: Between an exemplar and its label.
        after: Between a label and the next exemplar.

    >>> template = Template(start=(7,), between=(8, 9))
    >>> template.fill(torch.tensor([[1, 2]]), torch.tensor([[3]])).tolist()
    [[7, 1, 8, 9, 3, 2, 8, 9]]
    >>> template.exemplar_places(1).tolist(), template.label_places(1).tolist(), template.count_places(1)
    ([1, 5], [4, 8], 8)
    """

    start: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def fill(self, exemplars: Tensor, labels: Tensor) -> Tensor:
        """Return prompts up to the place at which the answer is read, int64 (n_sequences, places).

        Args:
            exemplars: Tokens, int64 (n_sequences, n_context + 1), the query's last.
            labels: Tokens, int64 (n_sequences, n_context).
        """
        pairs = [exemplars[:, :-1, None], self._spread(self.between, labels), labels[..., None]]
        pairs.append(self._spread(self.after, labels))
        start, between = (
            exemplars.new_tensor(ids).expand(len(exemplars), -1) for ids in (self.start, self.between)
        )
        return torch.cat([start, torch.cat(pairs, dim=2).flatten(1), exemplars[:, -1:], between], dim=1)

    def _spread(self, ids: tuple[int, ...], labels: Tensor) -> Tensor:
        return labels.new_tensor(ids).expand(*labels.shape, -1)

    def exemplar_places(self, n_context: int) -> Tensor:
        """Return where exemplars stand, int64 (n_context + 1,), the query's last."""
        step = 2 + len(self.between) + len(self.after)
        return len(self.start) + step * torch.arange(n_context + 1)

    def label_places(self, n_context: int) -> Tensor:
        """Return where labels stand, int64 (n_context + 1,), the answer last."""
        return self.exemplar_places(n_context) + len(self.between) + 1

    def count_places(self, n_context: int) -> int:
        """Return how many places a prompt takes, up to that at which the answer is read."""
        return int(self.label_places(n_context)[-1])

    def count_pairs(self, n_places: int) -> int:
        """Return how many pairs stand before the query in a prompt of so many places."""
        step = 2 + len(self.between) + len(self.after)
        return (n_places - len(self.start) - len(self.between) - 1) // step


def make_template(prompt: PromptConfig, bank: Bank) -> Template:
    """Return the tokens of a template, as the bank's tokenizer writes it around the bank's own words.

    Raises:
        ConfigError: If the bank has no tokenizer, the model no chat template, or a text joins with the words
            around it to other tokens.
    """
    vocabulary = bank.vocabulary
    prefix = vocabulary.prefix if vocabulary else ()
    if prompt.is_bare:
        return Template(start=tuple(prefix))
    tokenizer = vocabulary.load_tokenizer() if vocabulary and vocabulary.load_tokenizer else None
    if tokenizer is None:
        rule = "the bank's tokens have no tokenizer that could write it"
        hint = "Leave prompt out, or take a bank of kind vocabulary from a model with a tokenizer."
        raise ConfigError("prompt", prompt.template, rule, hint)
    parts = _write_chat(prompt, tokenizer, bank) if prompt.chat else _write_plain(prompt)
    found = Counter(filter(None, (_cut(tokenizer, parts, pair) for pair in _list_anchors(bank))))
    if not found:
        text = "".join((parts.start, "x", parts.between, "l", parts.after)).replace("\n", "⏎")
        rule = f"{text!r} joins with the words that stand in it to other tokens"
        hint = "Begin or end its texts with signs that are no part of a word, and without a space before one."
        raise ConfigError("prompt", prompt.template, rule, hint)
    template = found.most_common(1)[0][0]
    own_start = () if prompt.chat else tuple(prefix)
    return Template(own_start + template.start, template.between, template.after)


def write_nothing(bank: Bank) -> list[int]:
    """Return the tokens of ` N/A`, which stand for an exemplar that says nothing.

    Raises:
        ConfigError: If the bank has no tokenizer, or its tokenizer cannot write it.
    """
    load = bank.vocabulary.load_tokenizer if bank.vocabulary else None
    tokenizer = load() if load is not None else None
    ids = [] if tokenizer is None else tokenizer(NOTHING, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        rule = f"no tokenizer of the bank's could write {NOTHING!r}, by which labels are calibrated"
        raise ConfigError("bank", bank.name, rule, "Take a bank of kind vocabulary from a model with one.")
    return ids


class _Parts(NamedTuple):
    start: str
    between: str
    after: str


def _write_plain(prompt: PromptConfig) -> _Parts:
    before, between, after = prompt.text
    return _Parts(prompt.start + before, between, after + before)


def _write_chat(prompt: PromptConfig, tokenizer: PreTrainedTokenizerBase, bank: Bank) -> _Parts:
    """Return what a chat template writes around exemplars and labels."""
    source = bank.facts.get("source", "the model")
    if not tokenizer.chat_template:
        hint = "Take an instruct model, or leave prompt.chat out."
        raise ConfigError("prompt.chat", True, f"{source} has no chat template", hint)
    before, between, _ = prompt.text
    asked = {"role": "user", "content": f"{before}{EXEMPLAR}{between}"}
    turns = [asked, {"role": "assistant", "content": LABEL}, asked, {"role": "assistant", "content": LABEL}]
    system = [{"role": "system", "content": prompt.start}] if prompt.start else []
    try:
        written = tokenizer.apply_chat_template(
            [*system, *turns, asked], tokenize=False, add_generation_prompt=True
        )
        start, *pieces = written.replace(LABEL, EXEMPLAR).split(EXEMPLAR)
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        hint = "Leave prompt.start out if it knows no system's turn, or prompt.chat."
        raise ConfigError(
            "prompt.chat", True, f"{source}'s chat template refuses it ({error})", hint
        ) from error
    if len(pieces) != 5 or pieces[0] != pieces[2] or pieces[1] != pieces[3] or pieces[0] != pieces[4]:
        rule = f"{source}'s chat template does not write all turns alike"
        raise ConfigError("prompt.chat", True, rule, "Leave it out.")
    return _Parts(start, pieces[0], pieces[1])


def _list_anchors(bank: Bank) -> Iterator[tuple[Phrase, Phrase]]:
    """Yield pairs of different words or texts of a bank, an exemplar's and a label's, whole words first."""
    vocabulary = bank.vocabulary
    assert vocabulary is not None
    firsts = bank.rows[:MOST_ANCHORS, 0].tolist()
    if vocabulary.label_phrases:
        labels = list(vocabulary.label_phrases[:MOST_ANCHORS])
        exemplars = [vocabulary.exemplar_phrases[number] for number in firsts]
    else:
        labels = [(token,) for token in vocabulary.label_tokens[:MOST_ANCHORS].tolist()]
        exemplars = [(token,) for token in firsts]
    yield from zip(labels[1:], labels, strict=False)
    yield from zip(exemplars, labels, strict=False)


def _cut(tokenizer: PreTrainedTokenizerBase, parts: _Parts, pair: tuple[Phrase, Phrase]) -> Template | None:
    """Return the tokens that a tokenizer makes of texts around an exemplar and a label; None where the words
    do not stay what they are."""
    exemplar, label = (read_phrase(tokenizer, phrase) for phrase in pair)
    first = exemplar if parts.start else read_phrase(tokenizer, pair[0], begins=True)
    text = f"{parts.start}{first}{parts.between}{label}{parts.after}{exemplar}{parts.between}{label}"
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        return None
    gaps, end = [], 0
    for phrase in (*pair, *pair):
        place = _find(ids, phrase, end)
        if place is None:
            return None
        gaps.append(ids[end:place])
        end = place + len(phrase)
    found = Template(*gaps[:3])
    is_whole = end == len(ids) and gaps[3] == found.between
    is_all_there = all(bool(text) == bool(gap) for text, gap in zip(parts, gaps, strict=False))
    return found if is_whole and is_all_there else None


def _find(ids: Phrase, phrase: Phrase, start: int) -> int | None:
    places = range(start, len(ids) - len(phrase) + 1)
    return next((place for place in places if ids[place : place + len(phrase)] == phrase), None)


class Unstable(NamedTuple):
    """How many prompts are other tokens when their text is read again.

    Attributes:
        count: Those that are.
        total: Those looked at.
    """

    count: int
    total: int


def count_unstable(bank: Bank, prompts: Sequence[Sequence[int]]) -> Unstable | None:
    """Count the prompts that decode to a text which the tokenizer reads as other tokens; None without one.

    A model has seen texts as its tokenizer cuts them, so it never has seen such a row of tokens.

    Args:
        bank: Whose vocabulary it is.
        prompts: Tokens of each.
    """
    if bank.vocabulary is None or bank.vocabulary.load_tokenizer is None:
        return None
    tokenizer = bank.vocabulary.load_tokenizer()
    if tokenizer is None:
        return None
    rows = [list(row[len(bank.vocabulary.prefix) :]) for row in prompts]
    texts = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in rows]
    again = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return Unstable(sum(one != other for one, other in zip(rows, again, strict=True)), len(rows))
