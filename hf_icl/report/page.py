"""One self-contained page: verdict, chart, numbers, definitions, origin. Works offline, from a file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from hf_icl.bank_facts import tell_bank
from hf_icl.report.analysis import average_curve, make_json_safe
from hf_icl.report.record import RunRecord, group_replicas, label_group
from hf_icl.report.thinning import POINTS_PER_CURVE, thin
from hf_icl.report.words import (
    EVALUATORS,
    MEASURE_TITLES,
    describe_group,
    describe_run,
    list_table,
    title_metric,
)
from hf_icl.summary import FLIP_SHARE, ICL, IWL, TRAIN_LOSS

POINTS_PER_PAGE = 400_000
_SHOWN_FIRST = ("icl", "icl_holdout", "iwl", "flip")
_EVENTS = {
    ICL: ("onset_step", "peak_step", "half_decay_step"),
    IWL: ("onset_step",),
    FLIP_SHARE: ("crossover_step",),
}


def render_page(
    runs: Sequence[RunRecord], document: Mapping[str, Any], varied: Mapping[str, Any] | None = None
) -> str:
    """Return the page of one or several runs as HTML; `document` is what `analyse` returned for them.

    `varied` is what a sweep shows above its curves: `head` and `rows` of a table, and `figure`, a PNG. The page loads nothing and sends nothing: its Content-Security-Policy admits only its own script and style, by
    their hashes. Names and values from runs are escaped, or lie in a JSON block that no parser takes for HTML.
    """
    folder = resources.files("hf_icl.report")
    css, js, template = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    columns = [*document["groups"], *document["runs"]]
    data, limit = collect_data(runs, document)
    return environment.from_string(template).render(
        title=f"Transience report: {runs[0].name}" if len(runs) == 1 else f"Transience report: {len(runs)} runs",
        policy=(
            f"default-src 'none'; script-src '{_hash(js)}'; style-src '{_hash(css)}'; base-uri 'none'; form-action 'none'"
            + ("; img-src data:" if varied else "")
        ),
        varied=varied and varied | {"figure": base64.b64encode(varied["figure"]).decode()},
        css=Markup(css),
        js=Markup(js),
        data=data,
        limit=limit,
        document={**document, "runs": [_with_facts(run) for run in document["runs"]]},
        verdicts=[_tell_verdict(entry) for entry in headline_entries(document)],
        columns=[{"name": column["name"], "verdict": say_verdicts(column)} for column in columns],
        table=_order_table(columns),
        titles=MEASURE_TITLES,
        has_means=bool(document["groups"]),
        percent=lambda share: f"{100 * share:g} %",
    )  # fmt: skip


def collect_data(runs: Sequence[RunRecord], document: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return what the chart draws, as JSON types, and the number of points above which curves were thinned, if any were."""
    metrics = sorted({metric for run in runs for metric in run.columns.metrics if "/" in metric})
    groups = [group for group in group_replicas(runs) if len(group) > 1]
    n_curves = max(1, len(metrics) * (len(runs) + len(groups)))
    limit = min(POINTS_PER_CURVE, max(100, POINTS_PER_PAGE // n_curves))
    entries = {entry["name"]: entry for entry in (*document["groups"], *document["runs"])}
    series, means, longest = [], {}, 0
    for group in groups:
        found = {metric: average_curve(group, metric, limit) for metric in metrics}
        name = label_group([run.name for run in group])
        curves = {
            metric: {"steps": _plain(mean[0])} | {k: _plain(v) for k, v in zip(("values", "low", "high"), mean[1:], strict=True)}
            for metric, mean in found.items() if mean is not None
        }  # fmt: skip
        series.append(_make_series(f"Mean of {name}", entries[name], group[0].chance, curves, is_mean=True))
        means |= {run.name: f"Mean of {name}" for run in group}
    for run in runs:
        curves = {}
        for metric in metrics:
            steps, values = run.curve(metric)
            longest = max(longest, steps.size)
            if steps.size:
                curves[metric] = {
                    k: _plain(v) for k, v in zip(("steps", "values"), thin(steps, values, limit), strict=True)
                }
        series.append(_make_series(run.name, entries[run.name], run.chance, curves, mean=means.get(run.name)))
    for index, one in enumerate(series):
        one["shown"] = index < max(6, len(groups))
    evaluators = _list_evaluators(metrics)
    measures = dict.fromkeys(metric.rpartition("/")[2] for metric in metrics)
    views = [{"name": "strategies", "title": "Strategies: accuracy (flip: in-context share)"}]
    views += [
        {"name": name, "title": name.replace("_", " ").capitalize() + ", all evaluators"} for name in measures
    ]
    data = {
        "series": series, "evaluators": evaluators, "views": views, "loss": TRAIN_LOSS, "lossTitle": "Training loss",
        "titles": {metric: title_metric(metric) for metric in metrics},
    }  # fmt: skip
    return make_json_safe(data), limit if longest > limit else None


def _make_series(name, entry, chance, curves, *, is_mean=False, mean=None) -> dict[str, Any]:
    events = {
        metric: {name: found[name]["value"] for name in names if found.get(name, {}).get("value") is not None}
        for metric, names in _EVENTS.items()
        if (found := entry["measures"].get(metric, {}))
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
    """Return the evaluators that have an accuracy or another measure, the known ones first, in a fixed order of colours."""
    found = {metric.rpartition("/")[0] for metric in metrics}
    first = [name for name in EVALUATORS if name in found]
    names = first + sorted(found - set(first))
    any_known = bool(set(_SHOWN_FIRST) & found)
    evaluators = []
    for name in names:
        primary = FLIP_SHARE if name == "flip" else f"{name}/accuracy"
        shown = name in _SHOWN_FIRST or not any_known or name not in EVALUATORS
        label = EVALUATORS.get(name, name)
        evaluators.append(
            {"name": name, "label": label, "primary": primary, "title": title_metric(primary), "shown": shown}
        )
    return evaluators


def _plain(values: np.ndarray) -> list[float]:
    """Return numbers with six significant digits, whole ones as integers: a third of the bytes."""
    numbers = (float(f"{value:.6g}") if value < 1e6 else float(value) for value in values.tolist())
    return [int(number) if number.is_integer() else number for number in numbers]


def headline_entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    grouped = {name for group in document["groups"] for name in group["runs"]}
    return [*document["groups"], *(run for run in document["runs"] if run["name"] not in grouped)]


def _tell_verdict(entry: Mapping[str, Any]) -> dict[str, str]:
    is_group = "verdicts" in entry
    verdict = next(iter(entry["verdicts"])) if is_group else entry["verdict"] or "none yet"
    kind = "none" if verdict in ("none yet", "never emerged") else verdict.replace(" ", "-")
    text = describe_group(entry) if is_group else describe_run(entry)
    return {"name": entry["name"], "badge": say_verdicts(entry), "kind": kind, "text": text}


def say_verdicts(entry: Mapping[str, Any]) -> str:
    if "verdicts" not in entry:
        return entry["verdict"] or "none yet"
    total = len(entry["runs"])
    return ", ".join(f"{verdict} in {count} of {total}" for verdict, count in entry["verdicts"].items())


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
    return {**run, "facts": list(list_facts(run["provenance"], run["bank"]).items()), "config_yaml": config}


def list_facts(provenance: Mapping[str, Any], bank: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a run's numbers come from, by name: its exemplars, seed, versions, commit, machine, command."""
    classes = tell_bank(bank)
    return ({"classes": classes} if classes else {}) | flatten(provenance)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted names.

    >>> flatten({"seed": 0, "versions": {"torch": "2.13"}})
    {'seed': 0, 'versions.torch': '2.13'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
