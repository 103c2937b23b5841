"""The live view: how often it draws."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from hf_icl.history.history import History, make_row
from hf_icl.training import display


def test_a_long_history_is_drawn_less_often(monkeypatch):
    """Drawing that takes a second happens every twenty, so that it does not slow the steps."""
    now, drawn = [0.0], []

    def draw(self, step, n_steps, speed):
        now[0] += 1.0
        drawn.append(step)

    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(display.LiveDisplay, "render", draw)
    view = display.LiveDisplay(Console(quiet=True), History())
    view.live = SimpleNamespace(update=lambda table, refresh: None)
    for step in range(1, 101):
        now[0] += 0.5
        view.on_step_end(None, SimpleNamespace(global_step=step, max_steps=10_000), None)
    assert drawn == [1, 39, 77]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_does_not_end_the_view(bad):
    history = History()
    for step, loss in enumerate([1.0, 0.5, bad]):
        history.append(make_row(step, step, {"train/loss": loss, "icl/accuracy": 0.5}, {}))
    console = Console(width=80, file=io.StringIO())
    console.print(display.LiveDisplay(console, history).render(2, 10, 1.0))
    assert ("nan" if bad != bad else "inf") in console.file.getvalue()
