"""`hf-icl claims` and `hf-icl reproduce`: what is claimed, and whether it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hf_icl.cli.app import Public, app, claims_app, console, quiet_hub, say
from hf_icl.cli.sweep import Engine

VERDICT_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow", "refused": "magenta"}


@app.command()
def reproduce(
    claims: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|FILE.yaml]…", help="Claims; default: all of the package's."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="At which size: laptop, paper, or one of your file's.")
    ] = "laptop",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many seeds of each arm.")
    ] = None,
    judged_only: Annotated[
        bool, typer.Option("--judged-only", help="Leave out arms that are shown, but in no criterion.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Where; default: runs/claims-SCALE.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at a time; default: one per GPU or core.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or a new one here.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="TFLOP/s that a worker sustains, for the hours of the plan; default: measured."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    train: Annotated[bool, typer.Option(help="Or judge what is finished as it is.")] = True,
) -> None:
    """Make the runs that claims need, and say of each whether it holds, does not hold, or stays undecided.

    The same command goes on where it stopped; claims and seeds can be added. A claim whose file was changed
    after its runs began is refused.

    Example: `hf-icl reproduce l2 --seeds 3`

    Example: `hf-icl reproduce examples/claims/more_classes.yaml --output runs/more-classes`
    """
    from hf_icl.experiments.claim import list_claims, load_claim
    from hf_icl.experiments.plan import plan_claims
    from hf_icl.experiments.reproduction import reproduce as do

    files = [load_claim(name) for name in claims or list_claims()]
    plan = plan_claims([file.claim for file in files], scale, seeds, judged_only=judged_only)
    folder = output or Path("runs") / f"claims-{scale}"
    say(f"{len(files)} claims, {plan.n_runs} runs ({plan.count_shared()} more are shared). Folder: {folder}")
    if dry_run:
        show_costs(plan, files, tflops, workers or 1)
        return
    try:
        judged = do(
            files, folder, scale=scale, n_seeds=seeds, judged_only=judged_only, train=train,
            engine=engine.value, address=address,
            workers=workers, console=console,
        )  # fmt: skip
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from the last checkpoints.")
        raise typer.Exit(130) from None
    show_verdicts(judged)
    say(f"Page: {folder / 'index.html'}")


def show_costs(plan, files, tflops: float | None, n_workers: int) -> None:
    """Print what each claim's runs cost, and all together, each run counted once."""
    from hf_icl.experiments.plan import PACES, Pace, estimate_cost, find_lacking, tell_cost

    pace = Pace(tflops) if tflops else PACES.get(plan.scale, PACES["laptop"])
    budgets: dict = {}
    with console.status("Counting …"):
        lacking = find_lacking([file.claim for file in files], plan.scale)
        countable = [file.claim for file in files if file.claim.id in plan.seeds.keys() - lacking.keys()]
        for file in files:
            claim = file.claim
            if claim in countable:
                told = tell_cost(estimate_cost(plan.list_points([claim]), pace, budgets), n_workers)
            else:
                why = claim.untestable or lacking.get(claim.id, f"it has no scale {plan.scale}")
                told = f"no runs ({why})"
            say(f"  {claim.id}: {told}")
        total = tell_cost(estimate_cost(plan.list_points(countable), pace, budgets), n_workers)
    say(f"Together, at {pace.tflops:g} TFLOP/s for each worker: {total}")


def show_verdicts(judged) -> None:
    """Print a row for each claim."""
    table = Table("claim", "verdict", "why", box=None)
    for one in judged:
        leaning = f" (so far: {one.leaning})" if one.leaning else ""
        verdict = f"[{VERDICT_STYLES[one.verdict]}]{one.verdict}[/]{escape(leaning)}"
        table.add_row(escape(one.claim.id), verdict, escape(one.why))
    console.print(table)


@claims_app.callback(invoke_without_command=True)
def claims(context: typer.Context) -> None:
    """List the claims that come with the package; `hf-icl claims show ID` explains one."""
    if context.invoked_subcommand is not None:
        return
    from hf_icl.experiments.claim import list_claims, load_claim

    table = Table("claim", "what it says", "arms", box=None)
    for name in list_claims():
        claim = load_claim(name).claim
        table.add_row(f"[bold]{name}", escape(claim.title), str(len(claim.all_arms)))
    console.print(table)


@claims_app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where `hf-icl reproduce` wrote.")],
    space: Annotated[str, typer.Argument(metavar="USER/SPACE", help="A Space, made if need be.")],
    public: Public = False,
) -> None:
    """Put page, numbers and figures of judged claims into a Space. Private unless --public.

    Example: `hf-icl claims push runs/claims-laptop me/claims`
    """
    from hf_icl.experiments.push import push_claims
    from hf_icl.hub.repos import describe_visibility

    say(describe_visibility(space, "space", public=public))
    with quiet_hub(), console.status("Pushing …"):
        new = push_claims(folder, space, public=public)
    say("Pushed." if new else "Nothing new.")


@claims_app.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where `hf-icl reproduce` wrote.")],
    page: Annotated[
        Path, typer.Argument(metavar="PAGE.md", help="What to write; numbers and figures go beside it.")
    ],
) -> None:
    """Write what came of claims as Markdown, with numbers and figures beside it: for a repository, or a site.

    Example: `hf-icl claims write runs/claims-laptop docs/reproduction.md`
    """
    from hf_icl.experiments.markdown import write_markdown

    say(f"Page: {write_markdown(folder, page)}")


@claims_app.command()
def show(claim: Annotated[str, typer.Argument(metavar="ID|FILE.yaml", help="Which.")]) -> None:
    """Explain a claim: its source, its arms, and the criterion that was fixed before its runs.

    Example: `hf-icl claims show l2`
    """
    from hf_icl.experiments.claim import load_claim
    from hf_icl.experiments.words import tell_claim

    for line in tell_claim(load_claim(claim)):
        say(line)
