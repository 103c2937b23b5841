"""How far a sweep is, in the terminal: a line per job at work, steps per second, time left."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from hf_icl.sweeps.engines import Work
from hf_icl.sweeps.sweep import RunSet
from hf_icl.training.display import LiveView, format_duration, format_speed

REFRESH_S = 1.0
PRINT_S = 60.0  # between lines, where there is no terminal
BAR_COLUMNS = 30


class SweepProgress(LiveView):
    """Draws the work on a sweep; where there is no terminal,
    prints a line a minute and one per job that ends.

    Steps are read from the histories in the run folders, so it does not matter which machine trains.
    """

    def __init__(self, console: Console, sweep: RunSet) -> None:
        super().__init__(console)
        self.sweep = sweep
        self.drawn = self.printed = float("-inf")
        self.told: set[int] = set()
        self.first: dict[str | int, tuple[float, float]] = {}  # when some of what was seen, how much

    def update(self, works: Sequence[Work]) -> None:
        """Show the state of all work, once a second at most."""
        ended = [i for i, work in enumerate(works) if work.state in ("done", "lost") and i not in self.told]
        now = time.monotonic()
        if not ended and now - self.drawn < REFRESH_S:
            return
        self.drawn = now
        steps = [self._find_step(work) for work in works]
        for index in ended:
            self.told.add(index)
            work = works[index]
            line = f"{work.job}: {work.state}" + (f", {work.lost}" if work.lost else "")
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self.live is not None:
            self.live.update(self.render(works, steps), refresh=True)
        elif now - self.printed >= PRINT_S:
            self.printed = now
            self.console.print(self.headline(works, steps), highlight=False, soft_wrap=True)

    def _find_step(self, work: Work) -> int:
        reached = max(work.job.start, self.sweep.find_step(work.job.names[-1]))
        return work.job.steps if work.state == "done" else reached

    def headline(self, works: Sequence[Work], steps: Sequence[int]) -> str:
        """Return steps done and to do, over all runs, speed, and time left."""
        now, pairs = time.monotonic(), list(zip(works, steps, strict=True))
        total = sum(len(work.job.names) * work.job.steps for work in works)
        done = sum(len(work.job.names) * step for work, step in pairs)
        gained = sum(len(work.job.names) * (step - work.job.start) for work, step in pairs)
        speed, left = self._measure_speed("steps", gained, now), self._find_left(pairs, now)
        told = f"{format_speed(speed)} · {format_duration(left)}" if speed and left else "? steps/s · ?"
        return f"{done:,} of {total:,} steps, all runs together · {told} left"

    def _find_left(self, pairs: Sequence[tuple[Work, int]], now: float) -> float | None:
        """Return seconds to the end: all that is left at the speed so far, a step counted as what it costs,
        and no less than the slowest job at work still takes."""
        gained = sum(work.job.cost_until(step) for work, step in pairs)
        total = sum(work.job.cost for work, _ in pairs)
        left = [(total - gained, self._measure_speed("work", gained, now))]
        for number, (work, step) in enumerate(pairs):
            if work.state == "at work":
                own = self._measure_speed(number, step - work.job.start, now)
                left.append((work.job.steps - step, own))
        return max((amount / speed for amount, speed in left if speed), default=None)

    def _measure_speed(self, what: str | int, gained: float, now: float) -> float | None:
        """Return how much of something there is per second since its first was seen: what came before was
        loading and compiling, which says nothing of the time left. None until there has been some since.

        Runs that go on from a checkpoint lose the steps that they had taken after it; then it starts again.
        """
        first = self.first.get(what)
        if gained and (first is None or gained < first[1]):
            first = self.first[what] = now, gained
        if first is None or gained == first[1]:
            return None
        return (gained - first[1]) / max(now - first[0], 1e-9)

    def render(self, works: Sequence[Work], steps: Sequence[int]) -> Table:
        """Return the view: the headline, and a line per job that is at work."""
        table = Table.grid(padding=(0, 2))
        for work, step in zip(works, steps, strict=True):
            if work.state == "at work":
                bar = ProgressBar(total=work.job.steps, completed=step, width=BAR_COLUMNS)
                table.add_row(bar, f"{step:,} / {work.job.steps:,}", escape(str(work.job)))
        view = Table.grid()
        view.add_row(self.headline(works, steps))
        view.add_row(table)
        return view
