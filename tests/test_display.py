"""The live view: how often it draws."""

from types import SimpleNamespace

from rich.console import Console

from hf_icl.history.history import History
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
