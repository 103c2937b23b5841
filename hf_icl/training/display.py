"""A live view of a training run in the terminal: speed, time left, loss, and the rise and fall of ICL."""

from __future__ import annotations

import itertools
import math
import time
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_icl.history.history import History, Row
from hf_icl.task.evaluators import EVALUATORS, TRAIN_LOSS

COLOURS = ("cyan", "blue", "magenta", "bright_red", "yellow", "green")
BLOCKS = "▁▂▃▄▅▆▇█"
REFRESH_S = 0.2
PATIENCE = 20  # drawing takes a twentieth of the time at most
QUIET_S, MOST_QUIET_S = 60.0, 600.0  # without a terminal: silence before the first word, and later at most
LABEL_COLUMNS, MAX_COLUMNS = 24, 72


def list_curves() -> list[tuple[str, str, str]]:
    """Return label, metric and colour of what is shown: every evaluator that has a place in the summary
    table, and the loss."""
    kinds = [kind for kind in EVALUATORS.values() if kind.table != () and kind.part is None]
    colours = itertools.cycle(COLOURS)
    return [(kind.short, kind.metric, next(colours)) for kind in kinds] + [("loss", TRAIN_LOSS, "white")]


class LiveView:
    """A context in which a terminal is drawn on, so that it is put right whatever ends the work.

    Attributes:
        console: Where to draw.
        live: What draws there; None outside the context, and where there is no terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()


class LiveDisplay(LiveView, TrainerCallback):
    """Draws the run while it trains; where there is no terminal, prints one line per evaluation, and now and
    then how far it is and how long it will take.

    Args:
        console: Where to draw.
        history: What is shown.
    """

    def __init__(self, console: Console, history: History) -> None:
        super().__init__(console)
        self.history = history
        self.n_printed = 0
        self.started = self.drawn = 0.0
        self.pause = REFRESH_S
        self.first_step = 0
        self.told, self.quiet = 0.0, QUIET_S

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Start the clock."""
        self.started, self.first_step = time.monotonic(), state.global_step
        self.told, self.quiet = self.started, QUIET_S

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        """Draw, a few times a second at most; less often where a long history takes long to draw."""
        now = time.monotonic()
        if now - self.drawn < self.pause and state.global_step < state.max_steps:
            return
        self.drawn = now
        speed = (state.global_step - self.first_step) / max(now - self.started, 1e-9)
        if self.live is not None:
            self.live.update(self.render(state.global_step, state.max_steps, speed), refresh=True)
            self.pause = max(REFRESH_S, PATIENCE * (time.monotonic() - now))
        elif len(self.history.rows) > self.n_printed:
            self.n_printed = len(self.history.rows)
            self._print(self.line(self.history.rows[-1], state.max_steps, speed), now)
        elif now - self.told >= self.quiet:
            self.quiet = min(2 * self.quiet, MOST_QUIET_S)
            self._print(describe_pace(state.global_step, state.max_steps, speed), now)

    def _print(self, line: str, now: float) -> None:
        self.told = now
        self.console.print(line, highlight=False, soft_wrap=True)

    def render(self, step: int, n_steps: int, speed: float) -> Table:
        """Return the view: step, speed and time left, a bar,
        and a sparkline per curve (the loss on a log scale)."""
        width = max(10, min(self.console.width - LABEL_COLUMNS, MAX_COLUMNS))
        table = Table.grid(padding=(0, 2))
        for label, name, colour in list_curves():
            values = self.history.rows.columns.curve(name)[1]
            drawn = values[np.isfinite(values)].tolist()  # a diverged loss is none
            if drawn:
                line = sparkline(spread_log(drawn) if name.endswith("loss") else drawn, width=width)
                table.add_row(f"{label:<12}", f"[{colour}]{values[-1]:6.3f}", f"[{colour}]{line}")
        view = Table.grid()
        for part in (
            describe_pace(step, n_steps, speed),
            ProgressBar(total=n_steps, completed=step, width=width + LABEL_COLUMNS),
            table,
        ):
            view.add_row(part)
        return view

    def line(self, row: Row, n_steps: int, speed: float) -> str:
        """Return one evaluation as one line of text."""
        shown = [
            f"{label} {row['metrics'][name]:.3f}"
            for label, name, _ in list_curves()
            if name in row["metrics"]
        ]
        return describe_pace(row["step"], n_steps, speed) + "  " + "  ".join(shown)


def describe_pace(step: int, n_steps: int, speed: float) -> str:
    """Return how far a training is, how fast, and how long it will take at that speed.

    >>> describe_pace(500, 32_000, 78.4)
    'step     500 / 32,000 · 78 steps/s · 6:42 left'
    >>> describe_pace(10, 300, 0.31), describe_pace(0, 300, 0.0)
    ('step      10 / 300 · 3.2 s/step · 15:35 left', 'step       0 / 300')
    """
    text = f"step {step:>7,} / {n_steps:,}"
    if not speed:
        return text
    left = format_duration((n_steps - step) / speed)
    return f"{text} · {format_speed(speed)} · {left} left"


def format_speed(speed: float) -> str:
    """Write steps per second, or seconds per step where one takes longer.

    >>> format_speed(78.4), format_speed(2.34), format_speed(0.31)
    ('78 steps/s', '2.3 steps/s', '3.2 s/step')
    """
    if speed < 1:
        return f"{1 / speed:.1f} s/step"
    return f"{speed:,.0f} steps/s" if speed >= 10 else f"{speed:.1f} steps/s"


def sparkline(values: list[float], *, width: int) -> str:
    """Draw values between 0 and 1 as blocks, one per value, or one per group where there are more than fit.

    >>> sparkline([0, 0.5, 1], width=10)
    '▁▅█'
    """
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    levels = [min(max(value, 0.0), 1.0) * (len(BLOCKS) - 1) for value in values]
    return "".join(BLOCKS[round(level + 1e-9)] for level in levels)


def spread_log(values: list[float]) -> list[float]:
    """Spread positive values from 0 (the least) to 1 (the largest), evenly in their logarithms.

    >>> spread_log([1.0, 0.1, 0.01])
    [1.0, 0.5, 0.0]
    """
    logs = [math.log(max(value, 1e-12)) for value in values]
    low, high = min(logs), max(logs)
    return [round((log - low) / (high - low), 9) if high > low else 1.0 for log in logs]


def format_duration(seconds: float) -> str:
    """Write a duration as people say it.

    >>> format_duration(65), format_duration(3700)
    ('1:05', '1:01:40')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
