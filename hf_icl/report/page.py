"""One self-contained page: verdict, chart, numbers, definitions, origin. Works offline, from a file."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup, escape

from hf_icl.history.record import RunRecord, label_group
from hf_icl.report.analysis import POINTS_PER_CURVE, Analysis, average_points, make_json_safe, thin
from hf_icl.report.answers import collect_answers
from hf_icl.report.axis import TITLES, tell_place
from hf_icl.report.heads import ON_FLIP, ON_ICL, find_heads
from hf_icl.report.panels import collect_page
from hf_icl.report.sides import SidePanel, is_side, list_sides
from hf_icl.report.words import (
    describe_group,
    describe_run,
    find_typical,
    headline_entries,
    list_events,
    list_facts,
    list_table,
    say_verdicts,
    title_measure,
)
from hf_icl.summary.heads import HeadMetric
from hf_icl.summary.intervals import Band
from hf_icl.summary.measures import MEASURES
from hf_icl.task.evaluators import EVALUATORS, ICL, TRAIN_LOSS, title_metric

POINTS_PER_PAGE = 400_000
MAX_SHOWN = 6  # curves of one measure, before anybody asks for others
MAX_ANSWERED = 6  # runs whose answers are shown
MAX_VERDICTS = 6  # that stand open above everything else
COLUMNS = 5  # of numbers, that fit beside one another
STRONGEST = "strongest head"  # what its curves go by on the page
STRONGEST_TITLES = {ON_ICL: "Strongest head, ICL sequences", ON_FLIP: "Strongest head, labels flipped"}
GLYPHS = {"up": "▲", "star": "★", "down": "▼", "cross": "✕"}


def render_page(analysis: Analysis, varied: Mapping[str, Any] | None = None) -> str:
    """Return the page of one or several runs as HTML.

    The page loads nothing and sends nothing: its Content-Security-Policy admits only its own script and
    style, by their hashes. Names and values from runs are escaped, or lie in a JSON block that no parser
    takes for HTML.

    Args:
        analysis: What it says.
        varied: What a sweep shows above its curves: `head` and `rows` of a table; its `figures` as PNG,
            `wide` and `narrow`, and both for a dark page (`wide_dark`, `narrow_dark`); whether they are
            a grid (`is_grid`).
    """
    runs, document = analysis.runs, analysis.document
    folder = resources.files("hf_icl.report")
    css, js, template = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters["breakable"] = _let_break
    environment.filters["softened"] = lambda name: name.replace(",", ",\u200b")  # where no element can stand
    environment.filters["whole"] = keep_whole
    columns = [*document["groups"], *document["runs"]]
    verdicts = [_tell_verdict(entry) for entry in headline_entries(document)]
    data, limit = collect_data(analysis)
    return environment.from_string(template).render(
        title=f"Transience report: {runs[0].name if len(runs) == 1 else f'{len(runs)} runs'}",
        policy=_make_policy(css, js),
        varied=varied
        and varied | {"figures": {name: _embed(png) for name, png in varied["figures"].items()}},
        css=Markup(css),
        js=Markup(js),
        data=data,
        limit=limit,
        document={**document, "runs": [_with_facts(run) for run in document["runs"]]},
        verdicts=verdicts,
        tally=_count_verdicts(document["runs"]) if len(verdicts) > MAX_VERDICTS else None,
        columns=[{"name": column["name"], "verdict": say_verdicts(column)} for column in columns],
        blocks=[range(len(columns))[at : at + COLUMNS] for at in range(0, len(columns), COLUMNS)],
        table=_order_table(columns),
        title_measure=title_measure,
        heads=[
            found
            for run, entry in zip(runs, document["runs"], strict=True)
            if (found := collect_page(run, entry))
        ],
        answers=_collect_answers(analysis),
        glyphs={
            name: (GLYPHS[one.marker], _name_event(one.title)) for name, one in MEASURES.items() if one.marker
        },
        axis=runs[0].axis,
        tell_place=tell_place,
        has_means=bool(document["groups"]),
        has_bands=bool(analysis.bands),
        percent=lambda share: f"{100 * share:g} %",
    )


def _collect_answers(analysis: Analysis) -> list[dict[str, Any]]:
    """Return what is shown of the answers of the first runs that have some."""
    entries = zip(analysis.runs, analysis.document["runs"], strict=True)
    kept = itertools.islice((pair for pair in entries if pair[0].sample), MAX_ANSWERED)
    peaks = ((run, entry["measures"].get(ICL, {}).get("peak_step", {}).get("value")) for run, entry in kept)
    return [found for run, peak in peaks if (found := collect_answers(run, peak))]


def _make_policy(css: str, js: str) -> str:
    own = f"script-src '{_hash(js)}'; style-src '{_hash(css)}'"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; img-src data:"


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _name_event(title: str) -> str:
    return title.removesuffix(", step")


def collect_data(analysis: Analysis) -> tuple[dict[str, Any], int | None]:
    """Return what the chart draws, as JSON types, and the number of points above which curves were thinned,
    if any were."""
    runs = analysis.runs
    every = {metric for run in runs for metric in run.columns.metrics if "/" in metric}
    metrics = sorted(
        metric for metric in every if HeadMetric.read(metric) is None
    )  # heads have charts of their own
    groups = [group for group in analysis.groups if len(group) > 1]
    limit = min(
        POINTS_PER_CURVE, max(100, POINTS_PER_PAGE // max(1, len(metrics) * (len(runs) + len(groups))))
    )
    entries = {entry["name"]: entry for entry in (*analysis.document["groups"], *analysis.document["runs"])}
    means = {run.name: f"Mean of {label_group(group)}" for group in groups for run in group}
    series = [
        _make_series(
            f"Mean of {label_group(group)}",
            entries[label_group(group)],
            group[0].chance,
            _collect_means(analysis, group, metrics, limit),
            is_mean=True,
        )
        for group in groups
    ]
    series += [
        _make_series(
            run.name,
            entries[run.name],
            run.chance,
            _collect_curves(run, metrics, limit, {} if run.name in means else analysis.bands),
            mean=means.get(run.name),
        )
        for run in runs
    ]
    _add_strongest(series, analysis, groups)
    for index, one in enumerate(series):
        one["shown"] = index < MAX_SHOWN
    asked = [metric for metric in metrics if not is_side(metric)]
    measures = dict.fromkeys(metric.rpartition("/")[2] for metric in asked)
    evaluators = _list_evaluators(asked)
    views = [{"name": "strategies", "title": "Strategies: accuracy (flip: in-context share)"}]
    views += [
        {"name": name, "title": name.replace("_", " ").capitalize() + ", all evaluators"} for name in measures
    ]
    longest = max((run.curve(metric)[0].size for run in runs for metric in metrics), default=0)
    data = {
        "series": series,
        "evaluators": evaluators,
        "views": views,
        "axis": {"title": TITLES[runs[0].axis], "place": tell_place(runs[0].axis, "@")},
        "loss": TRAIN_LOSS,
        "lossTitle": title_metric(TRAIN_LOSS),
        "panels": [_make_heads_panel(evaluators), *map(_make_panel, list_sides(metrics))],
        "titles": {metric: title_metric(metric) for metric in metrics},
        "markers": {name: one.marker for name, one in MEASURES.items() if one.marker},
    }
    return make_json_safe(data), limit if longest > limit else None


def _make_heads_panel(evaluators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [evaluator["name"] for evaluator in evaluators]
    return {
        "title": "Induction strength of the head that looks most at the right label at ICL's peak",
        "short": "Strongest head's induction strength",
        "ends": [-1, 1],
        "levels": [0],
        "curves": [
            {"metric": f"{STRONGEST}/{name}", "title": title, "colour": names.index(name)}
            for name, title in STRONGEST_TITLES.items()
            if name in names
        ],
    }


def _make_panel(panel: SidePanel) -> dict[str, Any]:
    curves = [
        {"metric": metric, "title": title_metric(metric), "colour": number}
        for number, metric in enumerate(panel.metrics)
    ]
    return {"title": panel.title, "short": panel.short, "ends": panel.ends, "levels": [], "curves": curves}


def _add_strongest(series: Sequence[dict[str, Any]], analysis: Analysis, groups: Sequence) -> None:
    """Add to runs, and to means of replicas, the strengths of the head that is strongest at ICL's peak:
    replicas number their heads each in its own way, so that only such roles can be compared."""
    curves = {}
    for run, entry in zip(analysis.runs, analysis.document["runs"], strict=True):
        if (heads := find_heads(run)) is not None:
            head = heads.icl.find_strongest(entry["heads"]["peak_step"])
            own = {ON_ICL: heads.icl} | ({ON_FLIP: heads.flip} if heads.flip is not None else {})
            curves[run.name] = {name: (found.steps, found.of(*head)) for name, found in own.items()}
    for one in series:
        for name, (steps, values) in curves.get(one["name"], {}).items():
            steps, values = thin(steps, values, POINTS_PER_CURVE)
            one["curves"][f"{STRONGEST}/{name}"] = _make_curve(_plain(steps), _plain(values))
    for one, group in zip(series, groups, strict=False):  # means come first, in the order of their groups
        for name in STRONGEST_TITLES:
            found = [curves[run.name][name] for run in group if name in curves.get(run.name, {})]
            if (mean := average_points(found)) is not None:
                steps, values, low, high = map(_plain, mean)
                one["curves"][f"{STRONGEST}/{name}"] = _make_curve(steps, values, (steps, low, high))


def _collect_means(
    analysis: Analysis, group: Sequence[RunRecord], metrics: Sequence[str], limit: int
) -> dict[str, Any]:
    curves = {}
    for metric in metrics:
        mean = analysis.average(group, metric)
        if mean is not None:
            every = math.ceil(mean[0].size / limit)
            steps, values, low, high = (_plain(column[::every]) for column in mean)
            curves[metric] = _make_curve(steps, values, (steps, low, high))
    return curves


def _collect_curves(
    run: RunRecord, metrics: Sequence[str], limit: int, bands: Mapping[tuple[str, str], Band]
) -> dict[str, Any]:
    curves = {}
    for metric in metrics:
        steps, values = thin(*run.curve(metric), limit)
        if steps.size:
            band = bands.get((run.name, metric))
            curves[metric] = _make_curve(_plain(steps), _plain(values), band and tuple(map(_plain, band)))
    return curves


def _make_curve(steps: list, values: list, band: tuple[list, list, list] | None = None) -> dict[str, Any]:
    """Return what the page draws of one curve; a band may have steps of its own."""
    own = {} if band is None else {"band": dict(zip(("steps", "low", "high"), band, strict=True))}
    return {"steps": steps, "values": values, **own}


def _make_series(name, entry, chance, curves, *, is_mean=False, mean=None) -> dict[str, Any]:
    found = entry["measures"]
    events = {
        metric: {
            event.name: step
            for event in list_events(metric)
            if event.name in found[metric] and (step := find_typical(found[metric][event.name])) is not None
        }
        for metric in found
        if list_events(metric)
    }
    return {
        "name": name,
        "curves": curves,
        "chance": dict(chance),
        "events": events,
        "isMean": is_mean,
        "mean": mean,
    }


def _list_evaluators(metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return the evaluators that have an accuracy or another measure, the standard ones first,
    in a fixed order of colours."""
    found = {metric.rpartition("/")[0] for metric in metrics}
    standard = [kind for name, kind in EVALUATORS.items() if name in found]
    any_shown = any(kind.is_shown for kind in standard)
    evaluators = [
        {
            "name": kind.name,
            "label": kind.title,
            "primary": kind.metric,
            "shown": kind.is_shown or not any_shown,
        }
        for kind in standard
    ]
    evaluators += [
        {"name": name, "label": name, "primary": f"{name}/accuracy", "shown": True}
        for name in sorted(found - EVALUATORS.keys())
    ]
    return [one | {"title": title_metric(one["primary"])} for one in evaluators]


def _plain(values: np.ndarray) -> list[float]:
    """Return numbers with six significant digits, whole ones as integers: a third of the bytes."""
    numbers = (float(f"{value:.6g}") if value < 1e6 else float(value) for value in values.tolist())
    return [int(number) if number.is_integer() else number for number in numbers]


def _tell_verdict(entry: Mapping[str, Any]) -> dict[str, str]:
    is_group = "verdicts" in entry
    verdict = next(iter(entry["verdicts"])) if is_group else say_verdicts(entry)
    text = describe_group(entry) if is_group else describe_run(entry)
    badge = say_verdicts(entry)
    return {"name": entry["name"], "badge": badge, "kind": _choose_badge(verdict), "text": text}


def _choose_badge(verdict: str) -> str:
    """Return the class of a verdict's badge."""
    return "none" if verdict in ("none yet", "never emerged") else verdict.replace(" ", "-")


def _count_verdicts(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = Counter(map(say_verdicts, runs))
    return [
        {"verdict": verdict, "count": count, "kind": _choose_badge(verdict)}
        for verdict, count in counts.most_common()
    ]


def _let_break(name: str) -> Markup:
    """Return a name that may be broken after a comma, as names of sweeps' runs have them, not within a word.

    >>> _let_break("<i>,x")
    Markup('&lt;i&gt;,<wbr>x')
    """
    return escape(name).replace(",", Markup(",<wbr>"))


def keep_whole(cell: str) -> Markup:
    """Return a cell whose number and interval stay on one line; what is said of them may be broken.

    >>> keep_whole("0.41 [0.38, 0.44] (1 of 2)")
    Markup('<span class="whole">0.41 <span>[0.38, 0.44]</span></span> (1 of 2)')
    >>> keep_whole("transient in 2 of 2")
    Markup('transient in 2 of 2')
    """
    number, said, rest = cell.partition(" (")
    if " " in number and not number.endswith("]"):
        return escape(cell)
    value, space, interval = number.partition(" ")
    inside = Markup("{} <span>{}</span>").format(value, interval) if space else value
    return Markup('<span class="whole">{}</span>{}').format(inside, said + rest)


def _order_table(columns: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = list_table(columns)
    order = {metric: index for index, metric in enumerate(dict.fromkeys(row.metric for row in rows))}
    return [
        {
            "order": order[row.metric],
            "heading": title_metric(row.metric),
            "title": row.title,
            "cells": row.cells,
        }
        for row in rows
    ]


def _with_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    config = yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True)
    return {
        **run,
        "facts": list(list_facts(run["provenance"], run["bank"], run["config"]).items()),
        "config_yaml": config,
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
