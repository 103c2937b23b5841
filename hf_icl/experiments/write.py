"""What came of claims, on disk: `claims.json`, a figure each, and one page with a row for each."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hf_icl.errors import RunError
from hf_icl.experiments.claim import Claim, ClaimFile, list_claims
from hf_icl.experiments.evidence import Evidence
from hf_icl.experiments.figures import draw_claim
from hf_icl.experiments.judging import N_RESAMPLES, Finding, Verdict
from hf_icl.experiments.measuring import Measured
from hf_icl.experiments.plan import Plan
from hf_icl.experiments.words import tell_arms, tell_criterion, tell_interval, tell_seeds
from hf_icl.files import fill_whole
from hf_icl.local import hide_paths, hide_words
from hf_icl.reading import read_json
from hf_icl.report.analysis import make_json_safe
from hf_icl.report.figures import render_figure
from hf_icl.report.page import keep_whole
from hf_icl.report.sweep import write_value
from hf_icl.training.display import format_duration

SCHEMA = 1
CLAIMS_FILE, PAGE, FIGURES = "claims.json", "index.html", "figures"


@dataclass(frozen=True)
class Judged:
    """A claim and what came of it.

    Attributes:
        file: The claim.
        verdict: One of `holds`, `does not hold`, `undecided`, `refused`.
        why: What decided.
        findings: Of each criterion; none if it was not judged.
        runs: Finished runs by arm and seed.
    """

    file: ClaimFile
    verdict: Verdict
    why: str
    findings: list[Finding]
    runs: Mapping[tuple[str, int], Measured]

    @property
    def seeds(self) -> list[int]:
        """Those of which runs have finished."""
        return sorted({seed for _, seed in self.runs})

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.file.claim

    @property
    def leaning(self) -> str | None:
        """What an undecided claim would be if the means so far were sure; None for others."""
        leanings = [finding.leaning for finding in self.findings]
        if self.verdict != "undecided" or not leanings or None in leanings:
            return None
        return "holds" if all(leaning == "holds" for leaning in leanings) else "does not hold"


def write_findings(judged: Sequence[Judged], evidence: Evidence, plan: Plan) -> Path:
    """Write what came of claims into the evidence's folder; return the page.

    What an earlier call found of other claims at this scale stays, as it was judged then.

    Raises:
        RunError: If what is there of an earlier call cannot be read, or nothing can be written.
    """
    figures = {
        one.claim.id: render_figure(draw_claim(one.claim, one.findings, one.runs), "png", dpi=130)
        for one in judged
        if any(finding.numbers for finding in one.findings)
    }
    document = make_json_safe(describe(judged, evidence, plan))
    folder = evidence.folder / FIGURES
    kept = find_earlier(evidence.folder, document)
    shown = {claim["id"]: folder / f"{claim['id']}.png" for claim in kept}
    shown = {name: path.read_bytes() for name, path in shown.items() if path.exists()}
    document["claims"] = _sort(document["claims"] + kept)
    document["verdicts"] = dict(Counter(claim["verdict"] for claim in document["claims"]).most_common())
    with fill_whole(
        evidence.folder, last=PAGE, way_out="Make room, then judge again with --no-train."
    ) as draft:
        (draft / CLAIMS_FILE).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
        (draft / PAGE).write_text(render_page(document, figures | shown), "utf-8")
    folder.mkdir(exist_ok=True)
    for name, png in figures.items():
        (folder / f"{name}.png").write_bytes(png)
    return evidence.folder / PAGE


def find_earlier(folder: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is written in a folder of claims that a new document says nothing of.

    Raises:
        RunError: If it cannot be read.
    """
    path = folder / CLAIMS_FILE
    if not path.exists():
        return []
    try:
        earlier = read_json(path)
        names = {claim["id"] for claim in document["claims"]}
        is_same = (earlier["schema"], earlier["scale"]) == (document["schema"], document["scale"])
        return [claim for claim in earlier["claims"] if is_same and claim["id"] not in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}). Remove it, and judge the claims anew.") from error


def _sort(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return claims in the package's order, and then others as they come."""
    order = {name: number for number, name in enumerate(list_claims())}
    return sorted(claims, key=lambda claim: order.get(claim["id"], len(order)))


def describe(judged: Sequence[Judged], evidence: Evidence, plan: Plan) -> dict[str, Any]:
    """Return the content of `claims.json`."""
    return {
        "schema": SCHEMA,
        "hf_icl_version": metadata.version("hf-icl"),
        "scale": plan.scale,
        "wall_seconds": round(evidence.about["seconds"], 1),
        "intervals": {
            "of": "means over seeds, paired where arms share seeds",
            "method": f"expanded percentile bootstrap with {N_RESAMPLES:,} resamples, or Student's where "
            "that is wider; of shares Wilson's",
            "correction": "Bonferroni over the criteria of a claim; none over claims",
        },
        "verdicts": dict(Counter(one.verdict for one in judged).most_common()),
        "claims": [_describe_claim(one, evidence, plan) for one in judged],
    }


def _describe_claim(one: Judged, evidence: Evidence, plan: Plan) -> dict[str, Any]:
    claim, scale = one.claim, one.claim.scales.get(plan.scale)
    commits = {run.record.provenance.get("commit") for run in one.runs.values()}
    arms = {arm: claim.settings(arm, plan.scale) for arm in claim.all_arms} if scale else {}
    shown, paths = hide_paths({"base": scale.base if scale else None, "arms": list(arms.values())})
    return {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "source": claim.source,
        "read": claim.read,
        "verdict": one.verdict,
        "leaning": one.leaning,
        "why": hide_words(one.why, paths.values()),
        "fixed": str(claim.fixed),
        "digest": one.file.digest,
        "evidence": evidence.about["claims"].get(claim.id),
        "level": claim.level,
        "min_seeds": claim.min_seeds,
        "seeds": one.seeds,
        "base": shown["base"],
        "differs": scale.differs if scale else "",
        "settings": dict(zip(arms, shown["arms"], strict=True)),
        "n_runs": len(one.runs),
        "run_commits": sorted(commit for commit in commits if commit),
        "emerged": tell_arms(claim, one.runs) if one.runs else {},
        "criteria": [_describe_finding(finding) for finding in one.findings],
    }


def _describe_finding(finding: Finding) -> dict[str, Any]:
    interval = finding.interval
    return {
        "that": finding.criterion.that,
        "words": tell_criterion(finding.criterion),
        "criterion": finding.criterion.model_dump(mode="json", exclude_none=True),
        "verdict": finding.verdict,
        "leaning": finding.leaning,
        "why": finding.why,
        "mean": interval.mean,
        "interval": None if interval.low is None else [interval.low, interval.high],
        "level": finding.level,
        "bound": finding.bound,
        "numbers": {str(seed): value for seed, value in finding.numbers.items()},
        "missing": list(finding.missing),
        "censored": list(finding.censored),
        "told": tell_interval(finding),
        "told_seeds": tell_seeds(finding),
    }


def render_page(document: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Return the page as HTML; like a report's it loads nothing, sends nothing, and runs nothing."""
    css = (resources.files("hf_icl.report") / "page.css").read_text("utf-8")
    template = (resources.files("hf_icl.experiments") / "claims.html").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = keep_whole
    return environment.from_string(template).render(
        document=document,
        policy=policy,
        css=Markup(css),
        pictures={name: base64.b64encode(png).decode() for name, png in figures.items()},
        kinds={"holds": "persistent", "does not hold": "transient", "undecided": "none", "refused": "none"},
        n_without=sum(not any(one["numbers"] for one in claim["criteria"]) for claim in document["claims"]),
        write_value=write_value,
        duration=format_duration(document["wall_seconds"]),
    )
