"""What training does to what a pretrained model had: three real runs worked by hand, and their reports."""

import dataclasses

import numpy as np
import pytest

from hf_icl.history.history import History, make_row
from hf_icl.history.record import RunRecord, begins_pretrained
from hf_icl.report.analysis import analyse
from hf_icl.report.card import render_card
from hf_icl.report.page import render_page
from hf_icl.report.words import describe_group, describe_run, list_table
from hf_icl.summary.intervals import bootstrap_curve
from hf_icl.summary.summary import summarize, summarize_history
from hf_icl.summary.verdicts import DEFINITIONS, OF_PRETRAINED, VERDICTS
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import FLIP_SHARE, ICL
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback

CHANCE = {ICL: 1 / 32, "icl/context_accuracy": 0.5, FLIP_SHARE: 0.5}
RUNS = {
    "64 x 10": ([0, 30, 100, 200, 300], [0.66, 0.78, 0.58, 0.53, 0.56], [0.76, 0.73, 0.76, 0.67, 0.43]),
    "1600 x 1": ([0, 30, 100, 300], [0.84, 1.0, 1.0, 0.95], [0.82, 0.98, 0.98, 1.0]),
    "LoRA": ([0, 100, 200, 300], [0.63, 0.49, 0.85, 0.85], [0.62, 0.61, 0.76, 0.88]),
}


def record(name, steps, icl, flip, **more):
    rows = [
        {"step": s, "sequences": 16 * s, "metrics": {ICL: i, FLIP_SHARE: f, "train/loss": 4 / (1 + s)}}
        for s, i, f in zip(steps, icl, flip, strict=True)
    ]
    config = {"model": {"pretrained": "lm"}, "task": {"bank": {"kind": "vocabulary"}}, "seed": 0}
    return RunRecord(name, config | more, {}, rows, CHANCE, {}, begins_pretrained=True)


def summary_of(name):
    return summarize_history(record(name, *RUNS[name]).rows, CHANCE, pretrained=True)


# by hand: late is the mean over [270, 300]; above 1/2 there are .16, .34 and .13 before training
@pytest.mark.parametrize(
    ("name", "verdict", "retention", "persistence", "half_decay"),
    [
        # late .5555; at half of .78 above .5, .64, between 30 and 100: 30 + 70 · .14 / .20
        ("64 x 10", "lost", 0.0555 / 0.16, 0.06 / 0.28, 79.0),
        # late .95375
        ("1600 x 1", "kept", 0.45375 / 0.34, 0.45 / 0.5, None),
        ("LoRA", "grown", 0.35 / 0.13, 1.0, None),
    ],
)
def test_the_three_runs_of_a_real_model(name, verdict, retention, persistence, half_decay):
    summary = summary_of(name)
    found = summary.curves[ICL]
    assert summary.verdict == found.verdict == verdict
    assert found.start == RUNS[name][1][0] and found.onset_step is None
    assert found.retention == pytest.approx(retention)
    assert found.persistence == pytest.approx(persistence)
    assert found.half_decay_step == (None if half_decay is None else pytest.approx(half_decay))


def test_crossover_of_a_pretrained_start():
    assert summary_of("64 x 10").crossover_step == pytest.approx(200 + 100 * 0.17 / 0.24)
    assert summary_of("LoRA").crossover_step is None


def test_the_same_numbers_from_scratch_are_counted_from_chance():
    steps, icl, _ = RUNS["64 x 10"]
    found = summarize(steps, icl, 1 / 32, 0.5)
    assert found.start is found.retention is None and found.onset_step == 0
    assert found.persistence == pytest.approx((0.56 - 1 / 32) / (0.78 - 1 / 32))


def test_a_curve_from_scratch_that_ends_at_the_floor_is_not_called_persistent():
    steps = [0, 100, 200, 300, 400]
    assert summarize(steps, [0.03, 0.9, 0.8, 0.5, 0.5], 1 / 32, 0.5).verdict == "transient"
    assert summarize(steps, [0.03, 0.9, 0.8, 0.51, 0.51], 1 / 32, 0.5).verdict == "fading"


def test_a_pretrained_model_that_had_none_is_judged_by_its_rise_from_the_floor():
    steps = [0, 100, 200, 300]
    rising = summarize(steps, [0.52, 0.6, 0.7, 0.9], 1 / 32, 0.5, pretrained=True)
    assert (rising.verdict, rising.retention) == ("still rising", None)
    assert rising.onset_step == pytest.approx(200)
    # from chance half of this would be left; from the floor nothing is
    gone = summarize(steps, [0.1, 0.9, 0.5, 0.5], 1 / 32, 0.5, pretrained=True)
    assert (gone.verdict, gone.persistence) == ("transient", 0.0)
    # a rise of less than a fifth of what there is above the floor
    assert summarize(steps, [0.1, 0.59, 0.5, 0.5], 1 / 32, 0.5, pretrained=True).verdict == "never emerged"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_evaluations_of_a_pretrained_start_give_no_verdict(n):
    found = summarize(range(n), [0.9] * n, 1 / 32, 0.5, pretrained=True)
    assert found.verdict is None
    run = analyse([record("short", range(n), [0.9] * n, [0.9] * n)]).document["runs"][0]
    assert describe_run(run).startswith("No verdict: it takes 4 evaluations")


def test_verdicts_by_what_is_left_at_every_edge():
    def tell(late):
        return summarize([0, 1, 2, 100], [0.75, 0.75, late, late], 0.0, 0.5, pretrained=True).verdict

    assert [tell(0.5 + 0.25 * left) for left in (-0.2, 0.499, 0.501, 0.799, 0.801, 1.499, 1.501)] == [
        "lost", "lost", "fading", "fading", "kept", "kept", "grown"
    ]  # fmt: skip
    assert set(OF_PRETRAINED) == {"lost", "fading", "kept", "grown"} <= set(VERDICTS)


@pytest.mark.parametrize("seed", range(5))
def test_shifting_chance_below_the_floor_changes_nothing_of_a_pretrained_start(seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.3, 1, 8)
    one, other = (
        dataclasses.replace(summarize(range(8), values, chance, 0.5, pretrained=True), chance=None)
        for chance in (0.01, 0.4)
    )
    assert one == other


def test_intervals_hold_the_measures_of_a_pretrained_start():
    rng = np.random.default_rng(0)
    truth = np.array(RUNS["64 x 10"][1])[:, None]
    hits = rng.random((5, 1600)) < truth
    found = bootstrap_curve(
        np.array(RUNS["64 x 10"][0], float), hits, 1 / 32, ICL, floor=0.5, pretrained=True, seed=1
    )
    low, high = found.measures["retention"]
    assert low < summarize(RUNS["64 x 10"][0], hits.mean(1), 1 / 32, 0.5, pretrained=True).retention < high
    assert found.verdicts["lost"] > 0.6 and found.measures["onset_step"] is None


def test_report_tells_what_became_of_it():
    runs = [record(name, *rest) for name, rest in RUNS.items()]
    analysis = analyse(runs)
    texts = {run["name"]: describe_run(run) for run in analysis.document["runs"]}
    assert "ICL was there before training: 0.660 (chance 0.0312" in texts["64 x 10"]
    assert "35 % of what was there above the naming of labels is left" in texts["64 x 10"]
    assert "2.7 times as much" in texts["LoRA"] and "rise" not in "".join(texts.values())
    rows = {row.measure: row.cells for row in list_table(analysis.document["runs"]) if row.metric == ICL}
    assert rows["start"] == ("0.660", "0.840", "0.630") and rows["onset_step"] == ("–", "–", "–")
    page, card = render_page(analysis), render_card(analysis)
    for text in (page, card):
        assert "before training" in text and "kept of what was there" in text
    assert all(f"<b>{name}</b>: " in page for name in DEFINITIONS)


def test_report_of_replicas_tells_what_became_of_it():
    steps, icl, flip = RUNS["64 x 10"]
    runs = [record(f"a-seed{k}", steps, np.add(icl, 0.01 * k), flip, seed=k) for k in range(3)]
    group = analyse(runs).document["groups"][0]
    assert describe_group(group).startswith(
        "ICL was there before training in 3 of 3 replicas; it is lost in 3. On average, ICL began at 0.670"
    )


def test_tables_of_runs_from_scratch_have_no_line_of_a_pretrained_start():
    run = record("scratch", *RUNS["64 x 10"])
    document = analyse([dataclasses.replace(run, begins_pretrained=False)]).document
    assert not {"start", "retention"} & {row.measure for row in list_table(document["runs"])}


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        ({"pretrained": "lm"}, {"bank": {"kind": "vocabulary"}}, True),
        ({"pretrained": "lm"}, {"bank": {"kind": "vocabulary", "vectors": True}}, False),
        ({"pretrained": "lm"}, {"bank": {"kind": "gaussian"}}, False),
        ({"pretrained": None}, {"bank": {"kind": "vocabulary"}}, False),
        ({}, {}, False),
    ],
)
def test_the_record_says_whether_the_start_was_pretrained(model, task, expected):
    assert begins_pretrained({"model": model, "task": task}) is expected


def test_a_stock_trainers_callback_is_told_that_its_model_came_trained():
    bank = {"kind": "symbolic", "n_classes": 24, "n_holdout_classes": 4, "n_labels": 32}
    task = Task(TaskConfig(bank=bank, form="tokens", n_eval_sequences=100, evaluators=["icl", "flip"]))
    verdicts = {}
    for pretrained in (False, True):
        callback = TransienceCallback(task, pretrained=pretrained)
        callback.history = History()
        for step, value in zip(*RUNS["64 x 10"][:2], strict=True):
            callback.history.append(make_row(step, 16 * step, {ICL: value}, {}))
        assert callback.record().begins_pretrained is pretrained
        verdicts[pretrained] = callback.summary().verdict
    assert verdicts == {False: "fading", True: "lost"}
