"""What came of claims as a page in Markdown with small figures beside it, for a repository or a site."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hf_icl.errors import RunError
from hf_icl.experiments.words import join_cells, tabulate_claim
from hf_icl.experiments.write import CLAIMS_FILE, FIGURES
from hf_icl.files import write_whole
from hf_icl.reading import read_json
from hf_icl.report.sweep import write_value
from hf_icl.training.display import format_duration

N_COLOURS = 48  # of a small figure: lines, bands, and what lies between them and white


def write_markdown(folder: str | Path, page: str | Path) -> Path:
    """Write a page from what `reproduce` has written into a folder, replacing an earlier one.

    Every claim is on it, with those that do not hold, are undecided or were not run. It says nothing that
    `claims.json` does not, which goes beside it, and the same file gives the same bytes.

    Args:
        folder: Where `reproduce` wrote.
        page: A file, such as `docs/reproduction.md`; numbers and figures go into a folder of its name beside
            it.

    Returns:
        The page.

    Raises:
        RunError: If no claims were judged in the folder, or something cannot be written.
    """
    folder, page = Path(folder), Path(page)
    try:
        document = read_json(folder / CLAIMS_FILE)
    except (OSError, ValueError) as error:
        way_out = f"First: hf-icl reproduce --output {folder}"
        raise RunError(f"{folder}: holds no judged claims ({error}). {way_out}") from error
    beside, shown = page.with_suffix(""), {}
    for claim in document["claims"]:
        png = folder / FIGURES / f"{claim['id']}.png"
        if claim["n_runs"] and png.exists():
            write_whole(beside / png.name, shrink(png.read_bytes()))
            shown[claim["id"]] = f"{beside.name}/{png.name}"
    write_whole(beside / CLAIMS_FILE, (folder / CLAIMS_FILE).read_bytes())
    lines = list_lines(document, shown, f"{beside.name}/{CLAIMS_FILE}")
    write_whole(page, "".join(f"{line}\n" for line in lines).encode())
    return page


def shrink(png: bytes) -> bytes:
    """Return a figure with few colours: a fourth of the bytes."""
    small, image = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(N_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def list_lines(document: Mapping[str, Any], figures: Mapping[str, str], numbers: str) -> Iterator[str]:
    """Return the page, line by line.

    Args:
        document: What `claims.json` holds.
        figures: Id of a claim to the path of its figure, seen from the page.
        numbers: Path of `claims.json`, seen from the page.
    """
    counts = Counter(_tell_status(claim) for claim in document["claims"])
    verdicts = ", ".join(f"{status}: {number}" for status, number in counts.most_common())
    intervals, duration = document["intervals"], format_duration(document["wall_seconds"])
    yield "# Reproduction"
    yield ""
    yield (
        f"{len(document['claims'])} claims about in-context learning, at scale `{document['scale']}`: "
        f"{verdicts}. "
        f"Training took {duration} of wall time. Runs were made by `hf-icl reproduce`, this page by "
        f"`hf-icl claims write`, with hf_icl {document['hf_icl_version']}. "
        f"All numbers, seed by seed: [{CLAIMS_FILE}]({numbers})."
    )
    yield ""
    yield (
        "A claim and its criteria are a file that was fixed before its runs began; one that was changed "
        f"afterwards is refused. In brackets: intervals of {intervals['of']} ({intervals['method']}); "
        f"correction: {intervals['correction']}. A claim holds if all of its criteria do, "
        "does not hold if one does not, and else is undecided. `hf-icl claims show ID` explains a claim."
    )
    yield ""
    yield "| claim | verdict | why | seeds | finished runs |"
    yield "|---|---|---|---|---|"
    for claim in document["claims"]:
        link = f"[{claim['title']}](#{claim['id']})"
        why = "" if claim["why"] == _tell_status(claim) else claim["why"]
        yield join_cells(link, _tell_verdict(claim), why, _count_seeds(claim), str(claim["n_runs"]))
    for claim in document["claims"]:
        yield from _write_claim(claim, figures.get(claim["id"]))


def _tell_status(claim: Mapping[str, Any]) -> str:
    """Return a claim's verdict, and of one that has none because nothing was trained for it, that."""
    is_open = claim["verdict"] == "undecided" and not any(one["numbers"] for one in claim["criteria"])
    return "not run yet" if is_open and claim["criteria"] else claim["verdict"]


def _tell_verdict(claim: Mapping[str, Any]) -> str:
    leaning = f" (so far it {'holds' if claim['leaning'] == 'holds' else 'does not hold'})"
    return f"**{_tell_status(claim)}**{leaning if claim['leaning'] else ''}"


def _count_seeds(claim: Mapping[str, Any]) -> str:
    """Return how many seeds the criteria have numbers of, the fewest and the most."""
    counts = sorted({len(one["numbers"]) for one in claim["criteria"]}) or [0]
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _write_claim(claim: Mapping[str, Any], figure: str | None) -> Iterator[str]:
    yield ""
    yield f"## {claim['title']} {{#{claim['id']}}}"
    yield ""
    yield f"{claim['statement']} *{claim['source']}.*"
    yield ""
    why = "" if claim["why"] == _tell_status(claim) else f": {claim['why']}"
    yield f"{_tell_verdict(claim)}{why}."
    if claim["criteria"]:
        yield ""
        yield from tabulate_claim(claim)
    if figure is not None:
        yield ""
        yield f"![Curves of the arms, and the numbers that the criteria compare]({figure})"
    yield ""
    yield from _list_facts(claim)


def _list_facts(claim: Mapping[str, Any]) -> Iterator[str]:
    """Return what a claim's runs were, and when the claim was fixed."""
    began = claim["evidence"]
    yield f"- Fixed on {claim['fixed']}, digest `{claim['digest'][:12]}`" + (
        f"; runs began {began['began']}, claim at commit `{(began['fixed_at'] or 'none')[:10]}`."
        if began
        else "; no runs yet."
    )
    if claim["n_runs"]:
        commits = ", ".join(f"`{commit[:10]}`" for commit in claim["run_commits"]) or "unknown"
        seeds = ", ".join(map(str, claim["seeds"]))
        yield f"- {claim['n_runs']} finished runs of seeds {seeds}, of the code at commit {commits}."
        emerged = "; ".join(f"{arm}: {told}" for arm, told in claim["emerged"].items())
        yield f"- ICL emerged in: {emerged}."
    if claim["base"]:
        more = f" What differs from what was published: {claim['differs']}." if claim["differs"] else ""
        yield f"- Base `{claim['base']}`.{more}"
    for arm, settings in claim["settings"].items():
        words = " ".join(f"{key}={write_value(value)}" for key, value in settings.items())
        yield f"- Arm {arm}: {f'`{words}`' if words else 'as the base'}."
