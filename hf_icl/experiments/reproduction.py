"""From claims to verdicts: plan, train what is missing, judge, write. It can be killed at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from hf_icl.experiments.claim import ClaimFile
from hf_icl.experiments.effects import add_effects
from hf_icl.experiments.evidence import Evidence
from hf_icl.experiments.judging import judge_claim
from hf_icl.experiments.plan import Plan, check_ids, find_lacking, plan_claims
from hf_icl.experiments.stages import Stages
from hf_icl.experiments.write import Judged, write_findings
from hf_icl.sweeps.train import train_sweep


def reproduce(
    files: Sequence[ClaimFile],
    folder: str | Path,
    *,
    scale: str = "laptop",
    n_seeds: int | None = None,
    judged_only: bool = False,
    train: bool = True,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> list[Judged]:
    """Make the runs that claims need, judge the claims by them, and write `claims.json`, figures and page.

    What is there of an earlier call is kept, finished or not, and runs that claims share are made once. A
    claim whose file was changed after its runs began is refused, and one whose exemplars cannot be had stays
    undecided; the others are judged all the same.

    Args:
        files: From `load_claim`.
        folder: A new or empty folder, or that of an earlier call, with these claims or others.
        scale: At which size.
        n_seeds: Only the first so many seeds; None: all.
        judged_only: Make no runs of arms that no criterion names.
        train: Whether to train; else what is finished is judged as it is.
        engine: Processes of this machine, or Ray; see `train_sweep`.
        address: Of the Ray cluster.
        workers: Processes that train at a time; None: as many as the machine has cores or GPUs for.
        console: Where to show progress; None is silent.

    Raises:
        ConfigError: If an arm cannot be built, or two claims have one id.
        RunError: If the folder holds something else, or runs are unfinished because workers were lost; what
            is finished has been judged and written then.

    Example::

        for judged in reproduce([load_claim("l2")], "runs/claims", n_seeds=3):
            print(judged.claim.title, judged.verdict, judged.why)
    """
    check_ids(files)
    evidence = Evidence(folder)
    refusals = {file.claim.id: why for file in files if (why := evidence.refuse(file)) is not None}
    fit = [file for file in files if file.claim.id not in refusals]
    plan = plan_claims([file.claim for file in fit], scale, n_seeds)
    lacking = find_lacking([file.claim for file in fit], scale) if train else {}
    try:
        if train:
            ready = [file for file in fit if file.claim.id in plan.seeds and file.claim.id not in lacking]
            evidence.begin(ready)
            claims = [file.claim for file in ready]
            part = plan_claims(claims, scale, n_seeds, judged_only=judged_only)
            opened = evidence.open_runs(part, workers)
            _train(evidence, opened, console, engine=engine, address=address, n_workers=workers)
            for claim in claims:
                add_effects(claim, evidence.find_done(part, opened, claim))
    finally:
        judged = judge(files, refusals, lacking, evidence, plan)
        write_findings(judged, evidence, plan)
    return judged


def _train(evidence: Evidence, opened: dict[str, Stages], console: Console | None, **options: Any) -> None:
    console = console or Console(quiet=True)
    for runs in (runs for stages in opened.values() for runs in stages.sets):
        start = time.monotonic()
        runs.leave_out_unfinished_sources()
        with console.status("Checking runs …") as status:
            runs.create_runs(lambda text, status=status: status.update(escape(text)))
        try:
            train_sweep(runs, console, **options)
        finally:
            evidence.add_seconds(time.monotonic() - start)


def judge(
    files: Sequence[ClaimFile],
    refusals: dict[str, str],
    lacking: dict[str, str],
    evidence: Evidence,
    plan: Plan,
) -> list[Judged]:
    """Return what the finished runs say of each claim, refused ones among them.

    Args:
        files: The claims.
        refusals: Id to why there can be no evidence for a claim here.
        lacking: Id to why runs of a claim could not be made; those that are there count.
        evidence: Where the runs are.
        plan: Which of them count.
    """
    opened, found = evidence.open_runs(plan), []
    for file in files:
        claim, seeds = file.claim, plan.seeds.get(file.claim.id, ())
        if claim.id in refusals:
            found.append(Judged(file, "refused", refusals[claim.id], [], {}))
            continue
        if claim.untestable is None and claim.id not in plan.seeds:
            found.append(Judged(file, "undecided", f"it has no scale {plan.scale}", [], {}))
            continue
        runs = evidence.collect(plan, opened, claim)
        verdict, reason, findings = judge_claim(claim, seeds, runs)
        if not runs and claim.id in lacking:
            reason = lacking[claim.id]
        found.append(Judged(file, verdict, reason, findings, runs))
    return found
