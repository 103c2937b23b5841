"""The model card: verdict, table and figure of a report, and how to make the run again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from hf_icl.history.record import RunRecord
from hf_icl.report.analysis import Analysis, analyse
from hf_icl.report.words import describe_group, describe_run, headline_entries, list_facts, list_table
from hf_icl.task.evaluators import ICL, IWL, title_metric

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TAGS = ["hf-icl", "in-context-learning", "in-weights-learning", "transience", "interpretability"]


def render_card(
    about: Sequence[RunRecord] | Analysis,
    *,
    report: str = "report/",
    repo_id: str | None = None,
    dataset: str | None = None,
) -> str:
    """Return the text of a README.md for the models of these runs.

    Args:
        about: At least one run, or what was found of them; the card's results are the last ones of the first
            run.
        report: Where the report lies, seen from the card; ends with a slash.
        repo_id: The model repository that the card will stand in.
        dataset: The data set on the Hub that holds the sequences, from `hf-icl data push`.
    """
    analysis = about if isinstance(about, Analysis) else analyse(about)
    runs, document = analysis.runs, analysis.document
    entries = headline_entries(document)
    columns = [*document["groups"], *document["runs"]]
    template = (resources.files("hf_icl.report") / "card.md").read_text("utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        header=f"---\n{_make_header(document['runs'][0], runs[0], dataset)}\n---",
        title=escape_markdown(", ".join(entry["name"] for entry in entries)),
        verdicts=[_tell(entry) for entry in entries],
        figure=f"{report}transience.png",
        report=report,
        names=[escape_markdown(column["name"]) for column in columns],
        table=[
            {"heading": escape_markdown(title_metric(row.metric)), "title": row.title, "cells": row.cells}
            for row in list_table(columns)
        ],
        pretrained=(pretrained := any(run.begins_pretrained for run in runs)),
        base="what naming gives" if pretrained else "chance",
        commands=[_find_command(run) for run in runs],
        origin=_list_origin(runs),
        dataset=dataset,
        licence="that of the model it was fine-tuned from" if _find_base(runs[0]) else "Apache-2.0",
        loading=_tell_loading(runs[0], repo_id or ("this/repository" if len(runs) == 1 else "one/of-these")),
    )


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no table cells or lines of its own.

    >>> print(escape_markdown("a|b <i>_x_</i>"))
    a\\|b \\<i\\>\\_x\\_\\</i\\>
    """
    return re.sub(r"([\\`*_{}\[\]<>#|!&$~])", r"\\\1", " ".join(str(text).split()))


def _tell_loading(run: RunRecord, model_id: str) -> str:
    """Return the code that loads a run's model."""
    model = run.config.get("model", {})
    if model.get("lora"):
        name = "AutoPeftModelForCausalLM"
        return f'from peft import {name}\n\nmodel = {name}.from_pretrained("{model_id}")'
    name, more = ("AutoModelForCausalLM", "") if run.reads_tokens else ("AutoModel", "import hf_icl\n")
    return f'from transformers import {name}\n{more}\nmodel = {name}.from_pretrained("{model_id}")'


def _tell(entry: dict[str, Any]) -> str:
    name, verdict = escape_markdown(entry["name"]), entry.get("verdict")
    if "runs" in entry:
        return f"**{name}.** {describe_group(entry)}"
    return f"**{name}: {verdict or 'no verdict yet'}.** {describe_run(entry)}"


def _find_base(run: RunRecord) -> str | None:
    return run.config.get("model", {}).get("pretrained")


def _make_header(run: dict[str, Any], record: RunRecord, dataset: str | None) -> str:
    base = _find_base(record)
    based = {"base_model": base} if base and HUB_ID.fullmatch(base) else {}  # no folder of one's own
    results = [
        EvalResult(
            task_type="other",
            task_name="in-context against in-weights learning",
            dataset_type=dataset or "hf_icl",
            dataset_name=f"hf_icl sequences, evaluator {metric.rpartition('/')[0]}",
            dataset_split=metric.rpartition("/")[0] if dataset else None,
            metric_type="accuracy",
            metric_name=f"{title_metric(metric)}, end of training",
            metric_value=run["measures"][metric]["final"]["value"],
        )
        for metric in (ICL, IWL)
        if metric in run["measures"] and run["diverged_step"] is None
    ]
    named = {"model_name": run["name"], "eval_results": results} if results else {}
    library = "peft" if record.config.get("model", {}).get("lora") else "transformers"
    license_name = {} if base else {"license": "apache-2.0"}  # of a fine-tuned model, the base's
    linked = {"datasets": [dataset]} if dataset else {}
    about = license_name | based | linked | named
    return ModelCardData(library_name=library, tags=TAGS, metrics=["accuracy"], **about).to_yaml()


def _find_command(run: RunRecord) -> str:
    """Return the command that makes a run, on one line and unable to close the card's code block."""
    command = str(run.provenance.get("command") or "hf-icl run config.yaml")
    return " ".join(command.split()).replace("```", "")


def _list_origin(runs: Sequence[RunRecord]) -> list[str]:
    facts: dict[str, list[str]] = {}
    for run in runs:
        for name, value in list_facts(run.provenance, run.bank, run.config).items():
            if name != "command" and str(value) not in facts.setdefault(name, []):
                facts[name].append(str(value))
    return [
        f"{escape_markdown(name)}: {escape_markdown(', '.join(values))}" for name, values in facts.items()
    ]
