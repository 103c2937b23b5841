"""Claims and what came of them, as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_icl.experiments.claim import Claim, ClaimFile, Criterion, Term
from hf_icl.experiments.heads import HeadTarget
from hf_icl.experiments.judging import Finding
from hf_icl.experiments.measuring import Measured, explain_measure, is_step
from hf_icl.report.sweep import write_value
from hf_icl.report.words import format_step, format_value
from hf_icl.summary.verdicts import VERDICTS
from hf_icl.task.evaluators import ICL, title_metric


def tell_criterion(criterion: Criterion) -> str:
    """Return a criterion in a sentence.

    >>> take = {"arm": "wide", "metric": "icl/accuracy", "measure": "peak"}
    >>> tell_criterion(Criterion(that="x", take=take, minus={"arm": "narrow"}, above=0.1, in_seeds=0.75))
    'ICL accuracy, peak: wide less narrow, on average above 0.1, and in 75 % of seeds'
    """
    if criterion.trend is not None:
        what = (
            f"{_tell_measure(criterion.terms[0])}: rank correlation over {' < '.join(criterion.trend.arms)}"
        )
    else:
        what = f"{_tell_measure(criterion.take)}: {criterion.take.arm}"
        other = criterion.terms[1] if len(criterion.terms) > 1 else None
        if other is not None:
            same = _tell_measure(other) == _tell_measure(criterion.take)
            arm = other.arm if same else f"{_tell_measure(other)} of {other.arm}"
            what += f" {'less' if criterion.minus else 'over'} {arm}"
    side = "above" if criterion.below is None else "below"
    unit = " standard deviations over seeds" if criterion.unit == "spread" else ""
    more = f", and in {100 * criterion.in_seeds:g} % of seeds" if criterion.in_seeds else ""
    return f"{what}, on average {side} {criterion.bound:g}{unit}{more}"


def _tell_measure(term: Term) -> str:
    target = HeadTarget.read(term.metric)
    title = title_metric(term.metric) if target is None else target.title
    under = "" if term.under is None else f" {term.under.describe()}"
    return f"{title}{under}, {explain_measure(term.measure)}"


def tell_interval(finding: Finding) -> str:
    """Return the mean of a finding with its interval, as 0.42 [0.31, 0.55]; a dash without numbers."""
    interval, criterion = finding.interval, finding.criterion
    if interval.mean is None:
        return "–"
    plain = criterion.take is not None and criterion.over is None and is_step(criterion.take.measure)
    write = format_step if plain else format_value
    if interval.low is None:
        return write(interval.mean)
    return f"{write(interval.mean)} [{write(interval.low)}, {write(interval.high)}]"


def tell_seeds(finding: Finding) -> str:
    """Return which seeds count, and of which a measure is missing or only a bound."""
    text = f"{len(finding.numbers)} seeds"
    if finding.missing:
        why = "the curve never emerged, the run diverged, or it was not measured"
        text += f"; {len(finding.missing)} left out, as {why}"
    if finding.censored:
        text += f"; in {len(finding.censored)} an event had not come by the last step, which stands for it"
    return text


def tell_arms(claim: Claim, runs: Mapping[tuple[str, int], Measured]) -> dict[str, str]:
    """Return for each arm in how many of its finished runs ICL emerged, before any mean is told."""
    told = {}
    for arm in claim.all_arms:
        own = [run for (of, _), run in runs.items() if of == arm]
        curves = [run.summary.curves.get(ICL) for run in own]
        emerged = sum(curve is not None and curve.verdict not in (None, VERDICTS[0]) for curve in curves)
        told[arm] = f"{emerged} of {len(own)}"
    return told


def tabulate(document: Mapping[str, Any]) -> Iterator[str]:
    """Return what `claims.json` says as a table in Markdown, line by line: a row for each criterion.

    >>> one = {"that": "it falls", "words": "x: below 1", "verdict": "holds"}
    >>> one |= {"told": "0.2", "told_seeds": "8 seeds"}
    >>> claim = {"id": "fall", "title": "A | B", "verdict": "holds", "why": "", "criteria": [one]}
    >>> for line in tabulate({"claims": [claim]}):
    ...     print(line)
    | claim | criterion | verdict | mean over seeds | seeds |
    |---|---|---|---|---|
    | **A \\| B** (`fall`) | | **holds** | | |
    | | it falls: x: below 1 | holds | 0.2 | 8 seeds |
    """
    yield "| claim | criterion | verdict | mean over seeds | seeds |"
    yield "|---|---|---|---|---|"
    for claim in document["claims"]:
        why = claim["why"] if claim["verdict"] in ("undecided", "refused") else ""
        yield join_cells(f"**{claim['title']}** (`{claim['id']}`)", why, f"**{claim['verdict']}**", "", "")
        for one in claim["criteria"]:
            yield join_cells(
                "", f"{one['that']}: {one['words']}", one["verdict"], one["told"], one["told_seeds"]
            )


def tabulate_claim(claim: Mapping[str, Any]) -> Iterator[str]:
    """Return what `claims.json` says of one claim's criteria as a table in Markdown, line by line."""
    yield "| criterion | verdict | mean over seeds | seeds |"
    yield "|---|---|---|---|"
    for one in claim["criteria"]:
        what = f"{one['that']}: {one['words']}"
        yield join_cells(what, one["verdict"], one["told"], one["told_seeds"])


def join_cells(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    written = " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return " ".join(f"| {written} |".split())


def tell_claim(file: ClaimFile) -> Iterator[str]:
    """Return what a claim says, line by line."""
    claim = file.claim
    yield f"{claim.id}: {claim.title}"
    yield f"  {claim.statement}"
    yield f"  Source: {claim.source}"
    for name, how in claim.read.items():
        yield f"    {name}: {how}"
    yield f"  Fixed on {claim.fixed}, digest {file.digest[:12]}"
    if claim.untestable:
        yield f"  Cannot be tested: {claim.untestable}"
    for arm, settings in claim.all_arms.items():
        words = " ".join(f"{key}={write_value(value)}" for key, value in settings.items())
        yield f"  Arm {arm}: {words or 'as the base'}"
    for number, criterion in enumerate(claim.criteria, start=1):
        yield f"  Criterion {number}: {criterion.that}. {tell_criterion(criterion)}"
    if claim.criteria:
        level = 100 * (1 - (1 - claim.level) / len(claim.criteria))
        yield f"  Each by an interval of {level:.4g} % over {claim.min_seeds} seeds or more, paired by seed."
    for name, scale in claim.scales.items():
        more = f" Differs: {scale.differs}" if scale.differs else ""
        yield f"  Scale {name}: base {scale.base}, seeds {', '.join(map(str, scale.seeds))}.{more}"
