"""A few sequences as a person wants to see them: roles, classes, labels and exemplars, in a terminal."""

from __future__ import annotations

import torch
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text
from torch import Tensor
from torch.nn import functional

from hf_icl.banks.bank import Bank
from hf_icl.banks.facts import describe_bank, tell_bank
from hf_icl.banks.tokenizer import name_tokens
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.spec import Role
from hf_icl.task.forms import TokenForm
from hf_icl.task.prompt import count_unstable
from hf_icl.task.task import Task
from hf_icl.task.written import PromptConfig

STYLES = {Role.BURST: "green", Role.DISTRACTOR: "yellow", Role.FILLER: "white", Role.QUERY: "bold cyan"}
THUMBNAIL_CELLS = (7, 14)  # rows and columns of braille characters, of 4 × 2 dots each
BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
INK_THRESHOLD = 0.35  # of the darkest and lightest dot's distance: thin strokes stay whole when made small
BARS = "▁▂▃▄▅▆▇█"
BARS_PER_LINE, MAX_BAR_LINES = 14, 2
BAR_RANGE = 2.5  # features between −2.5 and 2.5 times their root mean square fill a bar
N_READ_AGAIN = 200  # prompts whose text is read again
CARD_WIDTH = BARS_PER_LINE + 2  # so that four exemplars and a query fit into 80 columns


def render_sequences(
    task: Task, evaluator: str | None = None, *, start: int = 0, count: int = 3
) -> RenderableType:
    """Draw sequences for a terminal, each as a row of cards, the query last, below a line on the bank.

    Features of drawings are shown as the drawings behind them; a label that is not the class's own is
    followed by the one that is. Where exemplars have names, as tokens do, the classes of a sequence are
    listed with them; and the tokens of a vocabulary are shown as the text that a model reads.

    Args:
        task: Where they come from.
        evaluator: Name of an evaluator; None: training sequences.
        start: Index of the first.
        count: How many.

    >>> from rich.console import Console
    >>> from hf_icl.task.config import TaskConfig
    >>> task = Task(TaskConfig(bank={"kind": "symbolic", "n_classes": 9}, train={"n_context": 1, "burst": 0}))
    >>> console = Console(width=60)
    >>> with console.capture() as capture:
    ...     console.print(render_sequences(task, count=1))
    >>> for line in capture.get().splitlines()[:2]:
    ...     print(line.rstrip())
    9 + 128 holdout classes × 1 exemplar, symbolic
    training sequence 0 · burst · distractor · filler · query
    """
    batch = task.to("cpu").sampler(evaluator).draw(start, count)
    exemplars = task.features(batch)
    parts: list[RenderableType] = [Text(tell_bank(describe_bank(task.bank)), style="dim")]
    parts += _read_prompts(task, task.sampler(evaluator).draw(0, N_READ_AGAIN))
    for row in range(count):
        sequence = batch[row : row + 1]
        parts += [
            _write_title(evaluator, int(batch.index[row])),
            _draw_row(task, sequence, exemplars[row]),
            *_write_names(task, sequence),
            "",
        ]
    return Group(*parts[:-1])


def _write_title(evaluator: str | None, index: int) -> Text:
    title = Text(f"{evaluator or 'training'} sequence {index}", style="bold")
    for role in Role:
        title.append(" · ", style="not bold dim").append(role.name.lower(), style=f"not bold {STYLES[role]}")
    return title


def _draw_row(task: Task, sequence: SequenceBatch, exemplars: Tensor) -> Columns:
    columns = (sequence.class_ids[0], sequence.exemplar_ids[0], sequence.labels[0], sequence.roles[0])
    places = zip(*(column.tolist() for column in columns), exemplars, strict=True)
    return Columns([_draw_card(task, *place) for place in places], padding=(0, 0))


def _draw_card(task: Task, class_id: int, exemplar_id: int, label: int, role: int, exemplar: Tensor) -> Panel:
    style, bank = STYLES[Role(role)], task.bank
    name = bank.class_names[class_id] if bank.class_names is not None else f"class {class_id}"
    asked = "answer" if role == Role.QUERY else "label"
    own = [] if bank.exemplar_names is None else [_fold(repr(bank.exemplar_names[class_id][exemplar_id]))]
    if bank.pictures is not None:
        exemplar = bank.pictures.lookup(torch.tensor(class_id), torch.tensor(exemplar_id))
    drawn = [] if bank.vocabulary else [Text(draw_exemplar(exemplar, bank.scale), no_wrap=True)]
    body = Group(
        *drawn,
        *own,
        Text(f"{name} #{exemplar_id}", style="dim", overflow="fold"),
        Text.assemble(f"{asked} ", (bank.name_label(label), style), overflow="fold"),
        *_write_own_label(bank, class_id, label),
    )
    return Panel(body, title=Role(role).name.lower(), border_style=style, width=CARD_WIDTH, padding=0)


def _write_own_label(bank: Bank, class_id: int, label: int) -> list[Text]:
    """Say what the class itself is called, where the sequence calls it otherwise."""
    labels = [own for own in bank.labels[class_id].tolist() if own >= 0]
    if not labels or label in labels:
        return []
    return [_fold("own " + ", ".join(bank.name_label(own) for own in labels))]


def _fold(text: str) -> Text:
    return Text(text, overflow="fold")


def _name_tokens(bank: Bank, tokens: list[int]) -> list[str]:
    """Return the text of tokens, those of a template among them."""
    names, load = dict(bank.vocabulary.names), bank.vocabulary.load_tokenizer
    if (missing := set(tokens) - names.keys()) and load is not None:
        names |= name_tokens(load(), missing)
    return [names[token] for token in tokens]


def _write_names(task: Task, sequence: SequenceBatch) -> list[Text]:
    """Say which exemplars form the classes of a sequence, and how a sequence of tokens reads."""
    bank = task.bank
    if bank.exemplar_names is None:
        return []
    lines = [
        Text.assemble((f"class {class_id}: ", "dim"), " ".join(map(repr, bank.exemplar_names[class_id])))
        for class_id in dict.fromkeys(sequence.class_ids[0].tolist())
    ]
    if bank.vocabulary is not None:
        form = task.form if isinstance(task.form, TokenForm) else TokenForm()
        tokens = form.list_prompts(bank, sequence)[0]
        prompt = "".join(_name_tokens(bank, tokens))
        answer = bank.name_label(int(sequence.labels[0, -1]))
        lines.append(Text.assemble(("prompt: ", "dim"), repr(prompt), " → ", (answer, STYLES[Role.QUERY])))
    return lines


def _read_prompts(task: Task, batch: SequenceBatch) -> list[Text]:
    """Say how prompts are written, and how many are other tokens when their text is read again."""
    if not isinstance(task.form, TokenForm) or task.bank.vocabulary is None:
        return []
    lines = [Text(f"written as {task.config.prompt or PromptConfig()}", style="dim")]
    found = count_unstable(task.bank, task.form.list_prompts(task.bank, batch))
    if found is not None:
        told = f"{found.count:,} of {found.total:,} prompts are other tokens when their text is read again"
        lines.append(Text(told, style="yellow" if found.count else "dim"))
    return lines


def draw_exemplar(exemplar: Tensor, scale: float = 1.0) -> str:
    """Return an exemplar as text: an image in braille dots, the first 28 features as bars, or an id.

    Args:
        exemplar: (D,), (H, W), (C, H, W), or () for an id.
        scale: Root mean square of a feature.

    >>> draw_exemplar(torch.tensor([-9.0, 0.1, 9.0]))
    '▁▅█'
    >>> draw_exemplar(torch.tensor(17))
    'id 17'
    """
    if exemplar.ndim == 0:
        return f"id {int(exemplar)}"
    if exemplar.ndim == 1:
        shown = exemplar[: BARS_PER_LINE * MAX_BAR_LINES] / scale
        levels = ((shown / BAR_RANGE + 1) * len(BARS) / 2).long().clamp(0, len(BARS) - 1).tolist()
        bars = "".join(BARS[level] for level in levels)
        return "\n".join(bars[i : i + BARS_PER_LINE] for i in range(0, len(bars), BARS_PER_LINE))
    return _draw_braille(exemplar.mean(0) if exemplar.ndim == 3 else exemplar)


def _draw_braille(image: Tensor) -> str:
    height, width = THUMBNAIL_CELLS
    small = functional.interpolate(image[None, None], size=(4 * height, 2 * width), mode="area")[0, 0]
    low, high = small.min(), small.max()
    dots = small > low + INK_THRESHOLD * (high - low)
    cells = dots.view(height, 4, width, 2).transpose(1, 2)
    codes = (cells * torch.tensor(BRAILLE_BITS)).sum((2, 3)) + 0x2800
    return "\n".join("".join(map(chr, line)) for line in codes.tolist())
