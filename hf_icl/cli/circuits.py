"""Looking at the heads of a run, along its checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hf_icl.cli.app import app, console, quiet_hub, say
from hf_icl.errors import ConfigError


@app.command()
def circuits(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or USER/REPO on the Hub.")],
    effects: Annotated[
        bool, typer.Option("--effects", help="Also measure what ablations do, at ICL's peak and at the end.")
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Steps of checkpoints, as 1000,2000; default: all there are.")
    ] = None,
    how: Annotated[
        str, typer.Option(help="What takes the place of an ablated head's output: zero, mean or resample.")
    ] = "zero",
    output: Annotated[
        Path | None, typer.Option(help="Where to write; default: RUN/circuits, or runs/REPO-circuits.")
    ] = None,
) -> None:
    """Measure every attention head at every checkpoint, and say which look at the right label.

    Reports of the run then show it. To measure heads while a run trains: `evaluate.heads=true`.

    Example: `hf-icl circuits runs/default-seed0 --effects`

    Example: `hf-icl circuits me/transience --steps 2000,18000`
    """
    from hf_icl.runs.circuits import (
        choose_ends,
        draw_sequences,
        measure_changes,
        measure_heads,
        write_circuits,
    )
    from hf_icl.runs.folder import CIRCUITS

    with _opened(run) as (opened, checkpoints):
        chosen = _choose(checkpoints, steps)
        task = opened.build_task()
        with console.status("Looking at heads …") as status:
            rows = list(measure_heads(task, _told(chosen, status)))
            ends = choose_ends(opened.history, [one.step for one in chosen])
            at_ends = [one for one in chosen if one.step in ends]
            drawn = list(draw_sequences(task, at_ends))
            told = _told(at_ends if effects else [], status)
            changed = list(measure_changes(task, told, how=how))
        away = Path("runs") / f"{run.name}-circuits"
        folder = output or (opened.folder / CIRCUITS if run.is_dir() else away)
        write_circuits(run.name, folder, rows, changed, drawn)
        _show(rows)
    for row in changed:
        _show_effects(row)
    say(f"Written: {folder}" + (f"  (in the report with: hf-icl report {run})" if run.is_dir() else ""))


@contextmanager
def _opened(run: Path) -> Iterator[tuple]:
    """Give a run and its checkpoints: those of a folder, or a repository's revisions, fetched one by one."""
    from hf_icl.cli.publishing import fetched
    from hf_icl.runs.circuits import Checkpoint, list_checkpoints
    from hf_icl.runs.run import Run

    with fetched(run) as folder:
        opened = Run.open(folder)
        if folder == run:
            yield opened, list_checkpoints(opened)
            return
        from hf_icl.hub.remote import Remote
        from hf_icl.traces.loading import load_whole
        from hf_icl.traces.published import find_revisions
        from hf_icl.traces.sources import HubSource

        source = HubSource(Remote(run.as_posix()))

        def load(one):
            with quiet_hub():
                return load_whole(source.fetch(one.name, one.commit, Path(scratch)))

        with quiet_hub(), tempfile.TemporaryDirectory() as scratch:
            found = find_revisions(source)
            yield opened, [Checkpoint(one.mark.step, lambda one=one: load(one)) for one in found]


def _choose(checkpoints: list, steps: str | None) -> list:
    """Return the checkpoints of some steps, given as words."""
    if steps is None:
        return checkpoints
    there = {str(one.step): one for one in checkpoints}
    wanted = steps.replace(" ", "").split(",")
    for word in wanted:
        if word not in there:
            raise ConfigError(
                "--steps", word, "no checkpoint is of that step", f"There are {', '.join(there)}."
            )
    return [one for one in checkpoints if str(one.step) in wanted]


def _told(checkpoints: list, status) -> Iterator:
    for number, one in enumerate(checkpoints, start=1):
        status.update(f"Step {one.step:,}, {number} of {len(checkpoints)} …")
        yield one


def _show(rows: list) -> None:
    """Print the strongest head of each checkpoint."""
    from hf_icl.report.heads import ON_FLIP, ON_ICL
    from hf_icl.summary.heads import INDUCTION, read_heads

    found = read_heads(rows)
    table = Table("step", "looks most at the right label", "strength", "labels flipped", box=None)
    icl, flip = (found.get((INDUCTION, name)) for name in (ON_ICL, ON_FLIP))
    if icl is None:
        return
    for row in rows:
        head = icl.find_strongest(row["step"])
        name = "L{}H{}".format(*head)
        low, high = row["intervals"][f"heads/{INDUCTION}/{ON_ICL}/{name}"]
        strength = f"{icl.read(row['step'], head):+.3f} [{low:+.3f}, {high:+.3f}]"
        swapped = "–" if flip is None else f"{flip.read(row['step'], head):+.3f}"
        table.add_row(f"{row['step']:,}", name, escape(strength), swapped)
    console.print(table)


def _show_effects(row: dict) -> None:
    """Print what each change does to the evaluators' primary metrics."""
    from hf_icl.task.evaluators import EVALUATORS

    metrics = next((list(effect["changes"]) for effect in row["effects"] if effect["changes"]), [])
    names = [metric.rpartition("/")[0] for metric in metrics]
    titles = [EVALUATORS[name].short if name in EVALUATORS else name for name in names]
    table = Table(box=None, title=f"What changes do at step {row['step']:,}", title_justify="left")
    table.add_column("change", no_wrap=True)
    for title in titles:
        table.add_column(escape(title), justify="right")
    for effect in row["effects"]:
        table.add_row(escape(effect["name"]), *(f"{effect['metrics'][metric]:.3f}" for metric in metrics))
    console.print(table)
