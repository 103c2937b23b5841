"""The files of a report: what they hold, and that they are written whole or not at all.
All histories are synthetic."""

import dataclasses
import io
import itertools
import json
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import ModelCard
from matplotlib.text import Text
from PIL import Image

from hf_icl.errors import RunError
from hf_icl.history.record import group_replicas
from hf_icl.report import analyse, analysis, render_card, write_report
from hf_icl.report.analysis import average_curve, thin
from hf_icl.report.figures import MARKERS, draw_figure, render_figure
from hf_icl.report.page import collect_data
from hf_icl.report.sides import SIDE_PANELS
from hf_icl.report.sweep import draw_sweep
from hf_icl.report.words import describe_group, describe_run, find_typical, format_measure, list_table
from hf_icl.summary.intervals import bootstrap_median
from hf_icl.summary.summary import summarize_history
from hf_icl.task.evaluators import FLIP_SHARE, ICL, IWL, SIDE_METRICS
from tests.report_histories import LAST_STEP, make_run

FILES = {
    "transience.json", "history.parquet", "answers.parquet", "transience.png", "transience.svg", "index.html"
}  # fmt: skip
HOSTILE = "_$\\frac$</script><img src=x onerror=alert(1)>|`字"


@pytest.fixture(scope="module")
def runs():
    return [make_run(f"seed-{seed}", seed=seed, n_rows=40, n_sequences=200) for seed in range(3)]


@pytest.fixture(scope="module")
def other():
    return make_run(HOSTILE, seed=7, fades=False, width=128, n_rows=30, n_sequences=200)


@pytest.fixture(scope="module")
def folder(runs, other, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "made" / "on request"
    assert write_report([*runs, other], folder).page == folder / "index.html"
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of other files: drawing takes most of a report's time."""
    monkeypatch.setattr("hf_icl.report.write.render_figure", lambda figure, kind: kind.encode())


def read(folder):
    return json.loads((folder / "transience.json").read_text())


def check(value, shape, path="document"):
    """Check JSON against a shape: a type or tuple of types, None for null, {name: shape}, {str: shape},
    or [shape]. A name that ends in ? may be missing."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), path
        plain = {key: of for key, of in shape.items() if key is str or not key.endswith("?")}
        maybe = {key[:-1]: of for key, of in shape.items() if key is not str and key.endswith("?")}
        if set(shape) != {str}:
            assert plain.keys() <= set(value) <= plain.keys() | maybe.keys(), path
        for key, item in value.items():
            check(item, (plain | maybe).get(key, shape.get(str)), f"{path}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), path
        for index, item in enumerate(value):
            check(item, shape[0], f"{path}[{index}]")
    elif shape is not object:
        assert isinstance(value, shape) and not isinstance(value, bool) or shape is bool, f"{path}: {value!r}"


NUMBER = (int, float, type(None))
SCHEMA_1 = {
    "schema_version": int,
    "hf_icl_version": str,
    "bootstrap": {"level": float, "n_resamples": int, "seed": int, "max_evaluations": int},
    "thresholds": {str: float},
    "definitions": [{"name": str, "words": str, "formula": str}],
    "verdicts": [{"name": str, "words": str}],
    "runs": [
        {
            "name": str,
            "verdict": str,
            "diverged_step": (int, type(None)),
            "verdict_shares": {str: float},
            "loss_falls": bool,
            "begins_pretrained": bool,
            "axis": str,
            "n_evaluations": int,
            "first_step": int,
            "last_step": int,
            "measures": {str: {str: {"value": NUMBER, "interval": (list, type(None)), "why?": str}}},
            "chance": {str: float},
            "n_sequences": {str: int},
            "bank": {str: object},
            "config": {str: object},
            "provenance": {str: object},
        }
    ],
    "groups": [
        {
            "name": str,
            "runs": [str],
            "axis": str,
            "verdicts": {str: int},
            "n_emerged": int,
            "n_loss_falls": int,
            "n_loss_known": int,
            "measures": {
                str: {
                    str: {
                        "value": NUMBER,
                        "interval": (list, type(None)),
                        "n": int,
                        "why?": {str: int},
                        "median?": NUMBER,
                        "median_interval?": (list, type(None)),
                    }
                }
            },
        }
    ],
}


def test_files(folder):
    assert {path.name for path in folder.iterdir()} == FILES


def test_json_keeps_to_its_schema(folder, runs, other):
    document = read(folder)
    assert document["schema_version"] == 1
    check(document, SCHEMA_1)
    assert [run["name"] for run in document["runs"]] == [run.name for run in [*runs, other]]
    assert [group["runs"] for group in document["groups"]] == [[run.name for run in runs]]
    assert (
        document["runs"][0]["provenance"] == runs[0].provenance
        and document["runs"][0]["config"] == runs[0].config
    )
    defined = {definition["name"] for definition in document["definitions"]}
    assert defined == set(document["runs"][0]["measures"][FLIP_SHARE])


def test_a_long_history_has_the_measures_of_all_rows_and_intervals_of_some(runs, monkeypatch):
    """Every measure is that of the whole curve; an interval is that of a report of the chosen rows alone."""
    whole = analyse(runs[:1]).document["runs"][0]
    monkeypatch.setattr(analysis, "MAX_RESAMPLED", 7)
    few = analyse(runs[:1]).document["runs"][0]
    rows = runs[0].rows
    peaks = {entry.get("peak_step", {}).get("value") for entry in whole["measures"].values()}
    places = set(np.linspace(0, len(rows) - 1, 7).round().astype(int).tolist())
    chosen = [row for place, row in enumerate(rows) if place in places or row["step"] in peaks]
    assert 7 <= len(chosen) < len(rows)
    alone = analyse([dataclasses.replace(runs[0], rows=chosen)]).document["runs"][0]
    assert few["n_evaluations"] == len(rows) > alone["n_evaluations"]
    differing = 0
    for metric, measures in few["measures"].items():
        for name, found in measures.items():
            assert found["value"] == whole["measures"][metric][name]["value"]
            expected = alone["measures"][metric][name]["interval"]
            assert found["interval"] == (expected and pytest.approx(expected, nan_ok=True))
            differing += found["interval"] != whole["measures"][metric][name]["interval"]
    assert differing


def test_json_holds_the_summaries(folder, runs):
    document = read(folder)
    for run, entry in zip(runs, document["runs"], strict=False):
        summary = summarize_history(run.rows, run.chance)
        assert entry["verdict"] == summary.verdict == "transient"
        assert entry["measures"][FLIP_SHARE]["crossover_step"]["value"] == summary.crossover_step
        for metric in (ICL, IWL):
            for name, found in entry["measures"][metric].items():
                assert found["value"] == getattr(summary.curves[metric], name)
                if found["interval"] is not None and None not in found["interval"]:
                    assert found["interval"][0] <= found["interval"][1]
        low, high = entry["measures"][ICL]["final"]["interval"]
        assert low < summary.curves[ICL].final < high
    peaks = [entry["measures"][ICL]["peak"]["value"] for entry in document["runs"][:3]]
    group = document["groups"][0]["measures"][ICL]["peak"]
    assert group["value"] == pytest.approx(np.mean(peaks)) and group["n"] == 3
    assert min(peaks) <= group["interval"][0] <= group["value"] <= group["interval"][1] <= max(peaks)
    assert document["groups"][0]["verdicts"] == {"transient": 3}


def test_parquet_equals_the_rows(folder, runs, other):
    table = parquet.read_table(folder / "history.parquet").to_pylist()
    rows = [(run.name, row) for run in [*runs, other] for row in run.rows]
    assert len(table) == len(rows)
    for line, (name, row) in zip(table, rows, strict=True):
        assert line == {"run": name, "step": row["step"], "sequences": row["sequences"]} | row["metrics"]


def test_parquet_leaves_unmeasured_values_empty(runs, tmp_path, no_figures):
    extra = runs[0].rows[0] | {"metrics": {"mine/accuracy": 0.5, "icl/accuracy": math.nan}}
    write_report([dataclasses.replace(runs[0], rows=[*runs[0].rows, extra])], tmp_path)
    lines = parquet.read_table(tmp_path / "history.parquet").to_pylist()
    assert lines[-1]["mine/accuracy"] == 0.5 and lines[0]["mine/accuracy"] is None
    assert lines[-1]["train/loss"] is None and math.isnan(lines[-1]["icl/accuracy"])


def test_figures(folder):
    image = Image.open(folder / "transience.png")
    assert image.width >= 2000 and len(image.convert("RGB").getcolors(1 << 20)) > 100
    image.close()
    svg = ElementTree.parse(folder / "transience.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert not svg.findall(".//{http://www.w3.org/2000/svg}script")
    assert not [name for node in svg.iter() for name in node.attrib if name.startswith("on")]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_events_are_marked_where_they_are(runs, other, count):
    chosen = [*runs, other][:count]
    analysis = analyse(chosen)
    document, figure = analysis.document, draw_figure(analysis)
    entry = (document["groups"] or document["runs"])[0]["measures"]
    marks = {
        line.get_xdata()[0]
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() in MARKERS.values()
    }
    for metric, name in [
        (ICL, "onset_step"),
        (ICL, "peak_step"),
        (ICL, "half_decay_step"),
        (IWL, "onset_step"),
    ]:
        assert find_typical(entry[metric][name]) in marks
    assert find_typical(entry[FLIP_SHARE]["crossover_step"]) in marks
    assert len(figure.axes) == (4 if count == 4 else 3)
    assert all(len(axes.collections) > 0 for axes in figure.axes[: -1 if count == 1 else None])  # bands


def never_in_context(run):
    """The same run, had its flipped share never risen clear of 1/2."""
    low = [
        {**row, "metrics": row["metrics"] | {FLIP_SHARE: min(0.55, row["metrics"][FLIP_SHARE])}}
        for row in run.rows
    ]
    return dataclasses.replace(run, name=f"{run.name}-low", rows=low)


@pytest.mark.integration
def test_a_crossover_that_is_not_there_is_explained(runs, other):
    document = analyse([*runs[:2], never_in_context(runs[2]), other]).document
    low, high = document["runs"][2:]
    assert format_measure(low, FLIP_SHARE, "crossover_step") == "never in context"
    assert format_measure(high, FLIP_SHARE, "crossover_step") == "in context to the end"
    assert "With labels flipped, the answers are never in context." in describe_run(low)
    cell = format_measure(document["groups"][0], FLIP_SHARE, "crossover_step")
    assert cell.endswith("(2 of 3, never in context in 1)")
    all_low = analyse([never_in_context(run) for run in runs]).document["groups"][0]
    assert format_measure(all_low, FLIP_SHARE, "crossover_step") == "never in context"


def test_of_steps_the_median_is_shown_and_a_missing_one_is_later_than_all():
    assert bootstrap_median([5, 1, 900]) == (5, (1, 900))
    assert bootstrap_median([None, None, 4]) == (None, (4, None)) and bootstrap_median([]) == (None, None)
    entry = {"value": 450.0, "interval": [1, 900], "n": 2, "median": None, "median_interval": [900, None]}
    group = {"runs": ["a", "b", "c"], "measures": {ICL: {"onset_step": entry}}}
    assert format_measure(group, ICL, "onset_step") == "later [900, later] (2 of 3)"


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(4))
def test_legends_hold_every_name_whole_and_stay_on_the_figure(seed):
    rng = np.random.default_rng(seed)
    n_configs = int(rng.integers(2, 9))
    words = ["strength=0.0003", "groups=mlp+head", "a" * 70, "_x", "字", "n classes 12800"]
    names = [f"{','.join(rng.choice(words, 4))},{number}" for number in range(n_configs)]
    runs = [make_run(name, seed=n, n_rows=6, n_sequences=16, width=n) for n, name in enumerate(names)]
    figure = draw_figure(analyse(runs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs that the font lacks
        figure.draw_without_rendering()
    squeezed = {"".join(name.split()) for name in names}
    drawn = {"".join(text.get_text().split()): text for text in figure.findobj(Text) if text.get_visible()}
    assert squeezed <= drawn.keys()
    for name in squeezed:
        box = drawn[name].get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width + 1


@pytest.mark.parametrize("sizes", [(3, 2), (7, 7), (5, 3, 3)])
@pytest.mark.parametrize(("dark", "narrow"), [(False, False), (True, False), (False, True)])
def test_a_sweep_has_lines_or_diagrams(sizes, dark, narrow):
    keys = [f"key {n}" for n in range(len(sizes))]
    rows = []
    for places in itertools.product(*map(range, sizes)):
        value = places[0] / sizes[0]
        found = {"value": value, "interval": None}
        rows.append({
            "name": str(places), "runs": [str(places)], "values": dict(zip(keys, places, strict=True)),
            "measures": dict.fromkeys(("peak", "late", "late_persistence"), found),
        })  # fmt: skip
    rows.pop()  # a cell without a run
    tall = {"keys": [{"key": key, "label": key} for key in keys], "rows": rows}
    figure = draw_sweep(tall, {"runs": []}, dark=dark, narrow=narrow)
    lefts = {axes.get_subplotspec().colspan.start for axes in figure.axes if axes.lines or axes.images}
    assert lefts == ({0} if narrow else {0, 1, 2})
    images = [image for axes in figure.axes for image in axes.images]
    if sizes == (3, 2):
        assert not images and len([axes for axes in figure.axes if axes.lines]) == 6
        return
    others = sizes[2] if len(sizes) == 3 else 1
    assert len(images) == 3 * others
    cells = images[-1].get_array()
    assert np.isnan(cells.filled(np.nan)).sum() == 1 and cells.shape == (sizes[1], sizes[0])
    assert cells.filled(0)[0].tolist() == [place / sizes[0] for place in range(sizes[0])]


@pytest.mark.integration
def test_same_runs_same_bytes(runs, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        write_report(runs[:1], folder)
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_failed_report_leaves_the_old_one_whole(runs, tmp_path, monkeypatch, no_figures):
    write_report(runs[:1], tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_bytes, written = type(tmp_path).write_bytes, []

    def fill_disk(path, content):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(type(tmp_path), "write_bytes", fill_disk)
    with pytest.raises(RunError, match="cannot be written .No space left on device"):
        write_report(runs, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_input(runs, tmp_path, no_figures):
    with pytest.raises(RunError, match="no run to report on"):
        write_report([], tmp_path)
    with pytest.raises(RunError, match="Several runs are called seed-0"):
        write_report([runs[0], runs[0]], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"file: cannot be written \(Not a directory\)\. Make room, or name another place"
    ):
        write_report(runs[:1], tmp_path / "file")


@pytest.mark.integration
@pytest.mark.parametrize("n_rows", [0, 1])
def test_a_run_that_has_hardly_begun(runs, tmp_path, n_rows):
    young = dataclasses.replace(runs[0], rows=runs[0].rows[:n_rows])
    draw_figure(analyse([young, runs[1]]))
    write_report([young], tmp_path)
    run = read(tmp_path)["runs"][0]
    assert run["verdict"] is None and run["n_evaluations"] == n_rows
    text = describe_run(run)
    assert text.startswith("No verdict" if n_rows else "Nothing has been measured")
    assert text in (tmp_path / "index.html").read_text()
    assert text in render_card([young])


def test_a_history_without_the_standard_evaluators(tmp_path, no_figures):
    rows = [{"step": s, "sequences": s, "metrics": {"mine/accuracy": s / 10}, "hits": {}} for s in range(11)]
    run = dataclasses.replace(make_run(n_rows=3), rows=rows, chance={"mine/accuracy": 0.0}, n_sequences={})
    write_report([run], tmp_path)
    measures = read(tmp_path)["runs"][0]["measures"]
    assert measures["mine/accuracy"]["onset_step"] == {"value": 5.0, "interval": None}
    assert "mine accuracy" in (tmp_path / "index.html").read_text()


def test_words(runs, other):
    document = analyse([*runs, other]).document
    text = describe_run(document["runs"][0])
    peak = format_measure(document["runs"][0], ICL, "peak")
    assert text.startswith(f"ICL peaked at {peak} (chance 0.0312) at step ")
    assert (
        re.search(r"had lost half of its rise by step 1\d,\d{3} \[", text)
        and "The training loss still fell" in text
    )
    assert "half of its rise" not in describe_run(document["runs"][3])
    assert describe_group(document["groups"][0]).startswith(
        "ICL emerged in 3 of 3 replicas; it is transient in 3. On average"
    )
    flat = dataclasses.replace(
        runs[0], rows=[{"step": s, "sequences": s, "metrics": {ICL: 0.05}, "hits": {}} for s in (0, 1)]
    )
    assert describe_run(analyse([flat]).document["runs"][0]) == (
        "ICL never emerged: its best accuracy was 0.05 at step 0 (chance 0.0312; naming either label of the "
        "context "
        "gives 0.500)."
    )


@pytest.mark.parametrize("count", [1, 3])
def test_words_where_the_peak_is_the_end(count):
    """Nothing is said of what came after a peak that nothing came after."""
    whole = [make_run(f"run-{seed}", seed=seed, n_rows=20, fades=False) for seed in range(count)]
    values = [0.1, 0.2, 0.9]
    runs = []
    for run in whole:
        rows = [
            row | {"metrics": row["metrics"] | {ICL: value, "train/loss": 1.319}, "hits": {}}
            for row, value in zip(run.rows, values, strict=False)
        ]
        runs.append(dataclasses.replace(run, rows=rows))
    document = analyse(runs).document
    end = f"{runs[0].rows[-1]['step']:,}"
    text = describe_group(document["groups"][0]) if count > 1 else describe_run(document["runs"][0])
    assert "was at its best at the end: 0.900" in text and f"at step {end}, the last one." in text
    assert not any(word in text for word in ("left", "fell", "rose", "ended", "loss", "same"))
    assert all(run["loss_falls"] is None for run in document["runs"])


def test_words_never_contradict_themselves():
    """Whatever the curves: no fall to the same number, no whole rise left after a loss,
    no share below nothing."""
    counts = [check_words(seed) for seed in range(60)]
    assert sum(told for told, _ in counts) > 20 and sum(left for _, left in counts) > 30


def check_words(seed: int) -> tuple[bool, bool]:
    """Check what is said of drawn curves; return whether of a loss, and of what was left of a rise."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(3, 9))
    values = rng.choice([0, 0.03, 0.5, 0.9, 0.901, 0.903, 1], n_rows).tolist()
    losses = rng.choice([0.2, 1.319, 1.3191, 1.4], n_rows).tolist()
    rows = [
        {"step": 10 * i, "metrics": {ICL: values[i], "train/loss": losses[i]}, "hits": {}}
        for i in range(n_rows)
    ]
    run = dataclasses.replace(make_run(n_rows=3, n_sequences=8), rows=rows)
    text = describe_run(analyse([run]).document["runs"][0])
    told = re.findall(r"(fell|rose) from ICL's peak to the end, (\S+) to (\S+?)\.(?= |$)", text)
    for word, before, after in told:
        assert float(before) > float(after) if word == "fell" else float(before) < float(after)
    late = r"(?: \(\S+ over the last tenth\))?"
    if found := re.search(rf"peaked at (\S+) .* ended at (\S+?){late}: (.*) of the rise", text):
        peak, end, share = found.groups()
        assert (share == "all") == (peak == end) and float(peak) >= float(end)
    assert " 0 %" not in text and "100 %" not in text and "-" not in text.replace("in-", "")
    return bool(told), bool(found)


def test_missing_measures_are_told(runs, other):
    """A half-decay that one of two replicas lacks is averaged over the other alone, and the cell says so."""
    never_fades = dataclasses.replace(other, name="b", config=runs[0].config)
    document = analyse([runs[0], never_fades]).document
    row = next(row for row in list_table(document["groups"]) if row.measure == "half_decay_step")
    assert row.cells[0].endswith("(1 of 2)")
    open_end = {"measures": {ICL: {"half_decay_step": {"value": 900.0, "interval": [800.0, None]}}}}
    assert format_measure(open_end, ICL, "half_decay_step") == "900 [800, later]"


def test_groups_do_not_mix_configs(runs, other):
    assert [len(group) for group in group_replicas([runs[0], other, *runs[1:]])] == [3, 1]


def test_average_of_replicas_with_other_steps():
    def run(name, points):
        rows = [{"step": s, "metrics": {ICL: v}} for s, v in points]
        return dataclasses.replace(make_run(name, n_rows=3), rows=rows)

    steps, mean, low, high = average_curve([run("a", [(0, 0), (20, 1)]), run("b", [(10, 0), (30, 1)])], ICL)
    assert steps.tolist() == [10, 20]  # what both cover
    assert mean.tolist() == pytest.approx([0.25, 0.75])
    assert (low <= mean).all() and (mean <= high).all()
    assert average_curve([run("a", [(0, 0)]), run("b", [])], ICL) is None
    assert average_curve([run("a", [(0, 0)]), run("b", [(5, 1)])], ICL) is None


def test_long_histories_are_thinned_with_their_extremes(runs):
    values = np.random.default_rng(0).random(50_000)
    values[[12_345, 40_000]] = 2, -1
    steps, kept = thin(np.arange(50_000), values, 2000)
    assert len(steps) <= 2002 and (np.diff(steps) > 0).all()
    assert kept.max() == 2 and kept.min() == -1 and (values[steps] == kept).all()
    rows = [
        {"step": s, "sequences": s, "metrics": {ICL: v}, "hits": {}} for s, v in enumerate(values.tolist())
    ]
    long = dataclasses.replace(runs[0], rows=rows, n_sequences={})
    data, limit = collect_data(analyse([long]))
    assert limit == 2000 and len(data["series"][0]["curves"][ICL]["steps"]) <= 2002
    assert collect_data(analyse(runs))[1] is None


def test_what_instruments_find_has_panels_of_its_own(runs):
    """Each in one panel, on its own scale, and none among the evaluators."""
    shown = [name for panel in SIDE_PANELS for name in panel.metrics]
    assert sorted(shown) == sorted(SIDE_METRICS)
    found = dict.fromkeys(["repeats/loss_first", *SIDE_METRICS], 0.5)
    told = [dict(row) | {"metrics": {**row["metrics"], **found}} for row in runs[0].rows]
    run = dataclasses.replace(runs[0], rows=told)
    data, _ = collect_data(analyse([run]))
    plain, _ = collect_data(analyse([runs[0]]))
    assert data["evaluators"] == plain["evaluators"] and data["views"] == plain["views"]
    heads, *panels = data["panels"]
    assert plain["panels"] == [heads]
    curves = data["series"][0]["curves"]
    assert all(curve["metric"] in curves for panel in panels for curve in panel["curves"])
    few, more = draw_figure(analyse([runs[0]])), draw_figure(analyse([run]))
    assert len(few.get_axes()) == 3 and len(more.get_axes()) == 3 + len(SIDE_PANELS)


def test_what_was_not_measured_has_no_panel(runs, other):
    """A run that does not ask training sequences has no training loss."""

    def leave_out(run):
        rows = [
            dict(row) | {"metrics": {k: v for k, v in row["metrics"].items() if k != "train/loss"}}
            for row in run.rows
        ]
        return dataclasses.replace(run, rows=rows)

    few = draw_figure(analyse([leave_out(runs[0]), leave_out(other)]))
    assert len(few.get_axes()) == len(draw_figure(analyse([runs[0], other])).get_axes()) - 1


def test_card(runs, other, tmp_path):
    text = render_card([*runs, other])
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and "in-context-learning" in card.data.tags
    final = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert final["ICL accuracy, end of training"] == runs[0].rows[-1]["metrics"][ICL]
    assert (
        "hf-icl run default seed=0" in text and "![Curves over training steps](report/transience.png)" in text
    )
    assert "<img" not in re.sub(r"```.*?```", "", card.text, flags=re.S).replace("\\<img", "")
    lines = [line for line in card.text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1  # as many cells in each line


def test_figure_bytes_are_what_they_are_called(runs):
    figure = draw_figure(analyse(runs[:1]))
    assert Image.open(io.BytesIO(render_figure(figure, "png"))).format == "PNG"
    assert runs[0].rows[-1]["step"] == LAST_STEP


@pytest.mark.parametrize(
    ("model", "task", "code", "base"),
    [
        ({}, {}, "model = AutoModel.from_pretrained", None),
        (
            {"pretrained": "EleutherAI/pythia-70m"},
            {"form": "tokens"},
            "AutoModelForCausalLM",
            "EleutherAI/pythia-70m",
        ),
        ({"pretrained": "/my/model"}, {"bank": {"kind": "vocabulary"}}, "AutoModelForCausalLM", None),
        (
            {"pretrained": "/my/model"},
            {"bank": {"kind": "vocabulary", "vectors": True}},
            "AutoModel.from",
            None,
        ),
        ({"pretrained": "a/b", "lora": {"rank": 2}}, {"form": "tokens"}, "from peft import", "a/b"),
    ],
)
def test_the_card_says_how_this_model_is_loaded_and_what_it_comes_from(runs, model, task, code, base):
    card = ModelCard(render_card([dataclasses.replace(runs[0], config={"model": model, "task": task})]))
    assert code in card.text
    assert card.data.base_model == base
    assert card.data.license == (None if model else "apache-2.0")
    assert card.data.library_name == ("peft" if "lora" in model else "transformers")
