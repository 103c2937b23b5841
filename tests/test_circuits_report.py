"""Heads in summary, report and command: made-up curves whose story is known, and a small run that is real."""

import dataclasses
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_icl.cli.main import app
from hf_icl.errors import ConfigError, RunError
from hf_icl.report import analyse
from hf_icl.report.heads import describe_heads, find_heads
from hf_icl.report.page import render_page
from hf_icl.report.panels import MOST_PANELS, collect_page, draw_heads, list_panels
from hf_icl.report.write import write_report
from hf_icl.runs.config import load_config
from hf_icl.runs.folder import read_record
from hf_icl.runs.run import Run
from hf_icl.sequences.spec import Role
from hf_icl.summary.heads import HeadMetric, read_heads
from tests.programs import TINY
from tests.report_histories import make_run

KEPT = "without L0, later values kept"


def add_heads(run, *, own=-0.4, shape=(2, 4)):
    """Return a run whose head L1H2 looks at the right label as long as ICL is high.

    With labels flipped, L0H1 ends at `own`.
    """
    rows = []
    for row in run.rows:
        icl = row["metrics"]["icl/accuracy"]
        left = row["step"] / run.rows[-1]["step"]
        metrics = {}
        for layer, head in np.ndindex(shape):
            strength = icl * 0.8 if (layer, head) == (1, 2) else 0.05
            flipped = own * left + 0.1 * (1 - left) if (layer, head) == (0, 1) else strength
            metrics[HeadMetric("induction", "icl", layer, head).name] = strength
            metrics[HeadMetric("induction", "flip", layer, head).name] = flipped
        rows.append({**row, "metrics": row["metrics"] | metrics})
    return dataclasses.replace(run, rows=rows)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A report of one made-up run with heads and effects."""
    run = add_heads(make_run("told", n_rows=30, n_sequences=64))
    intact = {"name": "intact", "metrics": {"icl/accuracy": 0.9, "flip/context_accuracy": 0.8}, "changes": {}}
    changes = {"icl/accuracy": [-0.4, -0.5, -0.3], "flip/context_accuracy": [0.001, -0.1, 0.1]}
    changed = {**intact, "name": "without <L1>", "changes": changes}
    run = dataclasses.replace(run, circuits={"effects": [{"step": 20, "effects": [intact, changed]}]})
    return run, write_report([run], tmp_path_factory.mktemp("told") / "report")


def test_the_summary_names_the_heads_and_their_strengths(told):
    run, report = told
    entry = report.document["runs"][0]
    found, peak = entry["heads"], entry["measures"]["icl/accuracy"]["peak_step"]["value"]
    assert (found["head"], found["own_head"]) == ("L1H2", "L0H1")
    assert (found["peak_step"], found["last_step"]) == (peak, 32_000)
    at_peak = next(row for row in run.rows if row["step"] == peak)["metrics"]["icl/accuracy"]
    assert found["at_peak"] == pytest.approx(0.8 * at_peak) == found["flip_at_peak"]
    assert found["own_at_end"] == pytest.approx(-0.4)


def test_what_replaced_icl_is_a_sentence_with_numbers(told):
    run, report = told
    entry = report.document["runs"][0]
    ciwl, iwl = (entry["measures"][f"{name}/accuracy"]["final"]["value"] for name in ("ciwl", "iwl"))
    text = describe_heads(entry)
    assert "At ICL's peak head L1H2 looks most at the right label: induction strength +0.7" in text
    assert "What replaced ICL looks for the class's own label in the context" in text
    assert "with labels flipped, head L0H1 went from" in text
    assert text.endswith(f"to −0.40, and training ends with CIWL at {ciwl:.2f} and IWL at {iwl:.2f}.")
    assert text in report.page.read_text("utf-8").replace("&#39;", "'")


def test_without_a_head_that_looks_for_its_own_label_the_weights_answer():
    run = add_heads(make_run(n_rows=20, n_sequences=64), own=0.02)
    text = describe_heads(analyse([run]).document["runs"][0])
    assert "no head looks for the class's own label at the end" in text and "answers from the weights" in text


def test_icl_that_stays_was_not_replaced():
    run = add_heads(make_run(n_rows=20, n_sequences=64, fades=False))
    text = describe_heads(analyse([run]).document["runs"][0])
    assert text.startswith("At ICL's peak head L1H2") and "replaced" not in text


def test_a_run_without_heads_is_reported_as_ever():
    run = make_run(n_rows=20, n_sequences=64)
    found = analyse([run])
    assert not {"heads", "effects"} & found.document["runs"][0].keys()
    assert 'id="heads"' not in render_page(found) and draw_heads(run) is None


def test_the_page_has_a_panel_for_each_head_and_one_axis_of_steps(told):
    run, report = told
    page = report.page.read_text("utf-8")
    panels = re.findall(r"<figcaption>(L\dH\d)</figcaption>", page)
    assert panels == [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    curves = data["series"][0]["curves"]
    strongest = curves["strongest head/icl"]
    by_hand = [row["metrics"]["heads/induction/icl/L1H2"] for row in run.rows]
    assert strongest["values"] == pytest.approx(by_hand, abs=1e-5) and len(strongest["steps"]) == len(
        run.rows
    )
    assert not any(name.startswith("heads/") for name in curves)
    assert {"icl/accuracy", "flip/context_accuracy", "strongest head/flip"} <= curves.keys()
    assert not any("L1H2" in view["name"] for view in data["views"])


def test_effects_are_a_table_with_gaps_and_intervals(told):
    page = told[1].page.read_text("utf-8")
    assert "without &lt;L1&gt;" in page and "without <L1>" not in page.split("application/json")[0]
    row = re.search(r"<tr><th scope=\"row\">without &lt;L1&gt;</th>(.*?)</tr>", page)[1]
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row)]
    assert cells[:2] == ["0.900 (−0.40 [−0.50, −0.30])", "0.800 (+0.00 [−0.10, +0.10])"]
    labels = re.findall('data-label="(.*?)"', row)  # what each is, where a row is a list
    assert len(labels) == len(cells) == len(set(labels)) and labels[0].startswith("step ")
    assert "heads.png" in {path.name for path in told[1].page.parent.iterdir()}


def test_replicas_are_compared_by_what_heads_do_not_by_their_numbers():
    runs = [add_heads(make_run(f"seed-{seed}", seed=seed, n_rows=20, n_sequences=64)) for seed in range(2)]
    rows = runs[1].rows  # in the second, the same head goes by another number
    for row in rows:
        for name in ("icl", "flip"):
            one, other = (HeadMetric("induction", name, 1, head).name for head in (2, 3))
            row["metrics"][one], row["metrics"][other] = row["metrics"][other], row["metrics"][one]
    page = render_page(analyse(runs))
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    mean, first, second = (one["curves"]["strongest head/icl"] for one in data["series"])
    step = mean["steps"][10]
    both = [np.interp(step, one["steps"], one["values"]) for one in (first, second)]
    assert (
        mean["values"][10] == pytest.approx(np.mean(both), abs=1e-4)
        and mean["band"]["low"][10] <= mean["band"]["high"][10]
    )
    assert "<h3>seed-0</h3>" in page and "head L1H3 looks most" in page


@pytest.mark.integration
def test_of_many_heads_those_that_look_most_have_panels():
    run = add_heads(make_run(n_rows=12, n_sequences=64), shape=(12, 12))
    panels = list_panels(find_heads(run))
    names = [panel.name for found in panels.values() for panel in found]
    assert len(names) == MOST_PANELS and {"L1H2", "L0H1"} <= set(names)
    entry = {
        "heads": {"peak_step": 20, "own_head": None, "head": "", "at_peak": 0, "at_end": 0, "last_step": 20}
    }
    assert collect_page(run, {**entry, "verdict": None})["n_left_out"] == 144 - MOST_PANELS
    assert draw_heads(run) is not None


# ---- The command, on a run of its own


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    words = [*TINY, "model.n_layers=2", "training.steps=4", "evaluate=2", "training.checkpoint_every=2"]
    run = Run.create(load_config("default", words), tmp_path_factory.mktemp("circuits") / "run")
    run.train()
    return run


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.integration
def test_the_command_measures_checkpoints_and_the_report_shows_them(trained):
    said = call("circuits", trained.folder, "--effects")
    folder = trained.folder / "circuits"
    assert {path.name for path in folder.iterdir()} == {
        "heads.jsonl",
        "effects.jsonl",
        "attention.jsonl",
        "heads.png",
        "heads.svg",
    }
    rows = [json.loads(line) for line in (folder / "heads.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and "looks most" in said and KEPT in said
    for row in rows:
        for name, value in row["metrics"].items():
            low, high = row["intervals"][name]
            assert low <= value <= high
    record = read_record(trained.folder)
    assert read_heads(record.circuits["heads"]).keys() == {
        (score, name) for score in ("induction", "context_mass") for name in ("icl", "flip")
    }
    last = record.circuits["effects"][-1]
    assert last["step"] == 4 and last["effects"][0]["metrics"] == trained.history.rows[-1]["metrics"]
    assert {effect["change"] and effect["change"].get("how") for effect in last["effects"]} == {None, "zero"}
    page = render_page(analyse([record]))
    assert "<figcaption>L1H1</figcaption>" in page and f'<th scope="row">{KEPT}</th>' in page


@pytest.mark.integration
def test_attention_of_a_few_sequences_is_that_of_the_model_with_roles_and_labels(trained):
    call("circuits", trained.folder)
    record = read_record(trained.folder)
    row = record.circuits["attention"][-1]
    task, model = trained.build_task(), trained.load_model().eval()
    names = [one["evaluator"] for one in row["sequences"]]
    assert row["step"] == 4 and names == ["icl", "icl", "flip", "flip"]
    for number, one in enumerate(row["sequences"]):
        batch = task.evaluators[one["evaluator"]].batch[number % 2 : number % 2 + 1]
        inputs = task.encode(batch)
        attentions = model(**inputs, output_attentions=True).attentions
        for head, shares in one["attention"].items():
            layer, index = int(head[1]), int(head[3])
            assert shares == pytest.approx(attentions[layer][0, index, -1].tolist(), abs=6e-4)
        assert [place["label"] for place in one["places"]] == [*batch.labels[0, :-1].tolist(), None]
        roles = [Role(int(role)).name.lower() for role in batch.roles[0]]
        assert [place["role"] for place in one["places"]] == roles
        assert one["target"] == int(batch.labels[0, -1])
    page = render_page(analyse([record]))
    shares = row["sequences"][0]["attention"]["L1H0"]
    cells = "".join(f'<td data-share="{share}">{share:.2f}</td>' for share in shares)
    assert (
        f'<tr><th scope="row">L1H0</th>{cells}</tr>' in page and page.count('<table class="attention">') == 8
    )


@pytest.mark.integration
def test_heads_while_it_trains_are_those_of_the_checkpoints(trained, tmp_path):
    """To the bytes of a float: the twin run measures them along the way."""
    words = [*TINY, "model.n_layers=2", "training.steps=4", "evaluate.every=2", "training.checkpoint_every=2"]
    run = Run.create(load_config("default", [*words, "evaluate.heads=true"]), tmp_path / "run")
    run.train()
    call("circuits", trained.folder, "--output", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/heads.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        measured = next(one for one in run.history.rows if one["step"] == row["step"])["metrics"]
        assert row["metrics"] == {name: v for name, v in measured.items() if HeadMetric.read(name)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "3"], "--steps = '3': no checkpoint is of that step. There are 2, 4."),
        (["--effects", "--how", "median"], "how = 'median'"),
    ],
)
def test_bad_words_are_refused(trained, words, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        call("circuits", trained.folder, *words)


def test_a_run_without_checkpoints_and_a_broken_file_are_told(tmp_path):
    run = Run.create(load_config("default", [*TINY, "training.steps=4"]), tmp_path / "run")
    with pytest.raises(RunError, match="has no whole checkpoint yet"):
        call("circuits", run.folder)
    (run.folder / "circuits").mkdir()
    (run.folder / "circuits/heads.jsonl").write_text('{"step": 1}\n')
    run.train()
    with pytest.raises(RunError, match="heads.jsonl: cannot be read .* hf-icl circuits"):
        read_record(run.folder)
