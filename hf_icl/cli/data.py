"""The sequences of a task, shown, exported or published; and the metrics for `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_icl.cli.app import (
    NSequences,
    Overrides,
    Public,
    Source,
    WithExemplars,
    console,
    data_app,
    metrics_app,
    quiet_hub,
    say,
    sort_words,
)
from hf_icl.errors import ConfigError


@data_app.command()
def show(
    source: Source = "default",
    overrides: Overrides = None,
    evaluator: Annotated[
        str | None, typer.Option(help="An evaluator, such as icl; default: training sequences.")
    ] = None,
    start: Annotated[int, typer.Option(help="Index of the first sequence.", min=0)] = 0,
    count: Annotated[int, typer.Option("--count", "-n", help="How many.", min=1)] = 3,
) -> None:
    """Draw a few sequences: roles, classes, labels and exemplars.

    Example: `hf-icl data show omniglot-cpu --evaluator icl -n 2`
    """
    from hf_icl.config import suggest
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import build_task
    from hf_icl.task.show import render_sequences

    source, overrides = sort_words(source, overrides)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    if evaluator is not None and evaluator not in task.specs:
        raise ConfigError(
            "evaluator", evaluator, "this task has no such evaluator", suggest(evaluator, task.specs)
        )
    console.print(render_sequences(task, evaluator, start=start, count=count))


@data_app.command()
def export(
    source: Source = "default",
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="An empty or new folder.")] = Path("export"),
    n_sequences: NSequences = 100_000,
    with_exemplars: WithExemplars = False,
) -> None:
    """Write a task as Parquet that plain `load_dataset(FOLDER)` reads, without hf_icl.

    Example: `hf-icl data export default --count 1000000 --output data/gaussian`
    """
    from hf_icl.data.export import export_parquet
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import build_task

    source, overrides = sort_words(source, overrides)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    export_parquet(
        task, output, n_sequences=n_sequences, with_exemplars=with_exemplars, progress=console.is_terminal
    )
    say(f"Written to {output}. Read it with: load_dataset({str(output)!r})")


@data_app.command("push")
def push_data(
    source: Annotated[
        str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset (see `hf-icl presets`) or a file.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="USER/REPO", help="A dataset repository.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]…", help="Settings on top of it.")
    ] = None,
    public: Public = False,
    n_sequences: NSequences = 100_000,
    with_exemplars: WithExemplars = False,
    name: Annotated[str | None, typer.Option(help="Its configuration; default: after the bank.")] = None,
) -> None:
    """Put a task on the Hub, beside other configurations of a dataset repository. Private unless --public.

    Example: `hf-icl data push omniglot-cpu me/icl-sequences --count 1000000`
    """
    from hf_icl.data.export import name_configuration
    from hf_icl.data.push import push_dataset
    from hf_icl.hub.repos import describe_visibility
    from hf_icl.runs.config import load_config
    from hf_icl.runs.run import build_task

    told = describe_visibility(repo_id, "dataset", public=public)
    task = build_task(load_config(source, overrides), progress=console.is_terminal)
    name = name_configuration(task, name)
    say(told)
    with quiet_hub():
        new = push_dataset(
            task,
            repo_id,
            public=public,
            n_sequences=n_sequences,
            with_exemplars=with_exemplars,
            name=name,
            progress=console.is_terminal,
        )
    say(f"{'Pushed' if new else 'Nothing new'}. Read it with: load_dataset({repo_id!r}, {name!r})")


@metrics_app.command("push")
def push_metrics(
    repo_ids: Annotated[list[str], typer.Argument(metavar="USER/NAME…", help="NAME: one of the metrics.")],
    public: Public = False,
) -> None:
    """Make the Spaces of metrics, which `evaluate.load("user/name")` reads. Private unless --public.

    Example: `hf-icl metrics push me/query_accuracy me/flip_share me/transience --public`
    """
    from hf_icl.hub.repos import describe_visibility
    from hf_icl.metrics import find_metric
    from hf_icl.metrics.push import push_metric

    for repo_id in repo_ids:
        find_metric(repo_id.rpartition("/")[2])
    for told in [describe_visibility(repo_id, "space", public=public) for repo_id in repo_ids]:
        say(told)
    for repo_id in repo_ids:
        with quiet_hub():
            new = push_metric(repo_id, public=public)
        say(f"{'Pushed' if new else 'Nothing new'}. Load it with: evaluate.load({repo_id!r})")
