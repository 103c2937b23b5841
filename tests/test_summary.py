"""Measures against curves worked by hand, and intervals against known distributions."""

import base64
import itertools
import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from hf_icl.errors import RunError
from hf_icl.history.columns import Columns
from hf_icl.summary.curves import Curves
from hf_icl.summary.intervals import (
    bootstrap_band,
    bootstrap_curve,
    bootstrap_replicas,
    draw_counts,
    stack_hits,
)
from hf_icl.summary.measures import MEASURES, CurveSummary, describe_measures, measures_of
from hf_icl.summary.summary import prefer_context, summarize, summarize_history
from hf_icl.summary.verdicts import VERDICTS, judge, tell_crossover
from hf_icl.task.evaluators import FLIP_SHARE, ICL, IWL, PREFERENCE, TRAIN_LOSS

NAN = float("nan")
STEPS = [0, 100, 200, 300, 400]


def approx(**measures):
    return {name: value if value is None else pytest.approx(value) for name, value in measures.items()}


def check(summary: CurveSummary, verdict: str | None, **measures):
    found = {name: getattr(summary, name) for name in measures}
    assert found == approx(**measures)
    assert summary.verdict == verdict


# The last tenth of training, [360, 400], lies between the last two evaluations a and b: it starts at
# b + 0.4 (a − b), so its mean, the late value, is b + 0.2 (a − b).
CASES = {
    # chance 1/2, peak 0.9: half level 0.7, met halfway from 0.5 to 0.9 and two thirds from 0.9 to 0.6
    "transient": (
        ([0.5, 0.9, 0.9, 0.6, 0.55], 0.5, "transient"),
        dict(onset_step=50, peak=0.9, peak_step=100, half_decay_step=200 + 100 * 2 / 3, final=0.55),
        # lost over [100, 400]: 0, 0, .3, .35 → areas 0, 15, 32.5 of 0.4 · 300
        # late .55 + .01; lowest .55; of all movement after the peak, 0 + .3 + .05, all is fall
        dict(
            persistence=0.05 / 0.4,
            area_lost=47.5 / 120,
            late=0.56,
            late_persistence=0.06 / 0.4,
            reemergence=0.01 / 0.4,
            monotonicity=1.0,
        ),
    ),
    "persistent": (
        ([0.0, 0.6, 1.0, 0.9, 0.8], 0.0, "persistent"),
        dict(onset_step=500 / 6, peak=1.0, peak_step=200, half_decay_step=None, final=0.8),
        dict(persistence=0.8, area_lost=(5 + 15) / 200),
    ),
    "monotone, still rising": (
        ([0.0, 0.2, 0.4, 0.6, 0.8], 0.0, "still rising"),
        dict(onset_step=200, peak=0.8, peak_step=400, half_decay_step=None, final=0.8),
        dict(persistence=1.0, area_lost=None),
    ),
    "rises by less than the gain at the end": (
        ([0.0, 0.8, 0.88, 0.89, 0.9], 0.0, "persistent"),
        dict(onset_step=56.25, peak=0.9, peak_step=400, half_decay_step=None, final=0.9),
        dict(persistence=1.0, area_lost=None),
    ),
    "never emerged": (
        ([0.5, 0.59, 0.5, 0.52, 0.48], 0.5, "never emerged"),
        dict(onset_step=None, peak=0.59, peak_step=100, half_decay_step=None, final=0.48),
        dict(persistence=None, area_lost=None),
    ),
    "emerged by a hair": (
        ([0.5, 0.625, 0.5, 0.5, 0.5], 0.5, "transient"),
        dict(onset_step=50, peak=0.625, peak_step=100, half_decay_step=150, final=0.5),
        dict(persistence=0.0, area_lost=(6.25 + 12.5 + 12.5) / 37.5),
    ),
    "two peaks, the second higher": (
        ([0.0, 0.8, 0.2, 1.0, 0.0], 0.0, "transient"),
        dict(onset_step=62.5, peak=1.0, peak_step=300, half_decay_step=350, final=0.0),
        dict(persistence=0.0, area_lost=0.5),
    ),
    "two equal peaks: the first is the peak, the fall between them the half-decay": (
        ([0.0, 0.8, 0.2, 0.8, 0.6], 0.0, "fading"),
        dict(onset_step=50, peak=0.8, peak_step=100, half_decay_step=100 + 400 / 6, final=0.6),
        # late .64 after the lowest .2; movement .6 + .6 + .2 for a net fall of .2
        dict(
            persistence=0.75,
            area_lost=(30 + 30 + 10) / 240,
            late_persistence=0.8,
            reemergence=0.44 / 0.8,
            monotonicity=0.2 / 1.4,
        ),
    ),
    "there at the first evaluation": (
        ([0.9, 0.5, 0.1, 0.0, 0.0], 0.0, "transient"),
        dict(onset_step=0, peak=0.9, peak_step=0, half_decay_step=112.5, final=0.0),
        dict(persistence=0.0, area_lost=(20 + 60 + 85 + 90) / 360),
    ),
    "ends below chance": (
        ([0.5, 0.9, 0.7, 0.5, 0.3], 0.5, "transient"),
        dict(onset_step=50, peak=0.9, peak_step=100, half_decay_step=200, final=0.3),
        dict(persistence=-0.5, area_lost=(10 + 30 + 50) / 120),
    ),
    "a fade under way": (
        ([0.0, 0.9, 0.9, 0.8, 0.65], 0.0, "fading"),
        dict(onset_step=50, peak=0.9, peak_step=100, half_decay_step=None, final=0.65),
        dict(persistence=0.65 / 0.9, late=0.68, late_persistence=0.68 / 0.9, reemergence=0.03 / 0.9),
    ),
    "half-decay passed, and come back": (
        ([0.0, 1.0, 0.3, 0.9, 0.9], 0.0, "fading"),
        dict(onset_step=50, peak=1.0, peak_step=100, half_decay_step=100 + 500 / 7, final=0.9),
        dict(persistence=0.9, late_persistence=0.9, reemergence=0.6, monotonicity=0.1 / 1.3),
    ),
    "low at one last evaluation after a peak in the last tenth": (
        ([0.0, 0.0, 0.0, 0.1, 0.9], 0.0, "still rising"),
        dict(onset_step=300 + 100 * 0.35 / 0.8, peak=0.9, peak_step=400, half_decay_step=None, final=0.9),
        dict(persistence=1.0, late_persistence=0.74 / 0.9, reemergence=None, monotonicity=None),
    ),
    "flat at chance": (
        ([0.5] * 5, 0.5, "never emerged"),
        dict(onset_step=None, peak=0.5, peak_step=0, half_decay_step=None, final=0.5),
        dict(persistence=None, area_lost=None),
    ),
    "chance is 1: nothing to rise to": (
        ([1.0] * 5, 1.0, "never emerged"),
        dict(onset_step=None, peak=1.0, peak_step=0, half_decay_step=None, final=1.0),
        dict(persistence=None, area_lost=None),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_worked_curves(name):
    (values, chance, verdict), events, shares = CASES[name]
    check(summarize(STEPS, values, chance), verdict, n_evaluations=5, chance=chance, **events, **shares)


def test_nothing_measured():
    assert summarize([], [], 0.1) == CurveSummary(chance=0.1)
    assert summarize([1, 2], [NAN, None], 0.1) == CurveSummary(chance=0.1)


def test_one_evaluation_gives_values_but_no_verdict():
    check(
        summarize([70], [0.9], 0.0),
        None,
        onset_step=70,
        peak=0.9,
        peak_step=70,
        half_decay_step=None,
        final=0.9,
        persistence=1.0,
        area_lost=None,
    )


def test_order_duplicates_and_gaps_change_nothing():
    """Unsorted rows, a row written twice (the last one wins) and NaN rows give the plain curve's summary."""
    plain = summarize(STEPS, [0.0, 0.8, 0.6, 0.2, 0.0], 0.0)
    messy = summarize(
        [300, 100, 50, 400, 100, 0, 350, 200], [0.2, 0.1, NAN, 0.0, 0.8, 0.0, float("inf"), 0.6], 0.0
    )
    assert messy == plain


def test_a_nan_that_replaces_a_value_removes_it():
    assert summarize([0, 10, 10, 20], [0.0, 1.0, NAN, 0.0], 0.0).peak == 0.0


def test_measures_do_not_depend_on_the_unit_of_steps():
    values, rng = None, np.random.default_rng(3)
    for _ in range(50):
        values = rng.random(9)
        one, many = summarize(range(9), values, 0.05), summarize(np.arange(9) * 64, values, 0.05)
        for name in MEASURES:
            a, b = getattr(one, name), getattr(many, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert b == pytest.approx(a * (64 if name.endswith("_step") else 1))


def loop_measures(steps, v, chance, f, pretrained):
    """The measures once more, as plain loops over one curve of fractions: the twin of the vectorised ones,
    which says of a value at a level what is true."""
    steps, v = [Fraction(step) for step in steps], [Fraction(str(value)) for value in v]
    chance, f = Fraction(str(chance)), Fraction(str(f))
    p, c = max(v), max(chance, f) if pretrained else chance
    had = pretrained and v[0] - c >= (1 - c) / 5 and v[0] > max(c, f)
    k = next(i for i, x in enumerate(v) if x == p)
    edge = steps[-1] - (steps[-1] - steps[0]) / 10
    last = next(i for i, s in enumerate(steps) if s > edge)
    share = (edge - steps[last - 1]) / (steps[last] - steps[last - 1])
    first = (edge, v[last - 1] + share * (v[last] - v[last - 1]))
    points = [first, *zip(steps[last:], v[last:], strict=True)]
    area = sum((t - s) * (x + y) / 2 for (s, x), (t, y) in pairwise(points))
    late = area / (steps[-1] - edge)
    out = dict.fromkeys(measures_of(FLIP_SHARE, pretrained=pretrained))
    if pretrained:
        out |= {"start": v[0], "retention": (late - c) / (v[0] - c) if had else None}
    out |= {"peak": p, "peak_step": steps[k], "final": v[-1], "late": late}
    if p <= c or p - c < (1 - c) / 5 or p <= f:
        return out, "never emerged"
    h = c + (p - c) / 2

    def meet(i, level):
        return steps[i - 1] + (level - v[i - 1]) / (v[i] - v[i - 1]) * (steps[i] - steps[i - 1])

    from_floor = max(c, f) + (p - max(c, f)) / 2
    i = next(i for i, x in enumerate(v) if x >= from_floor)
    out["onset_step"] = None if had else meet(i, from_floor) if i else steps[0]
    later = [i for i in range(k + 1, len(v)) if v[i] < h]
    out["half_decay_step"] = meet(later[0], h) if later else None
    out["persistence"] = (v[-1] - c) / (p - c)
    out["late_persistence"] = (late - c) / (p - c)
    if k < len(v) - 1:
        out["reemergence"] = max(0, late - min(v[k + 1 :])) / (p - c)
        moved = sum(abs(v[i + 1] - v[i]) for i in range(k, len(v) - 1))
        out["monotonicity"] = (p - v[-1]) / moved if moved else None
        lost = sum((steps[i + 1] - steps[i]) * (p - (v[i] + v[i + 1]) / 2) for i in range(k, len(v) - 1))
        out["area_lost"] = lost / (p - c) / (steps[-1] - steps[k])
    falls = [i for i in range(1, len(v)) if v[i - 1] >= 0.5 > v[i]]
    out["crossover_step"] = meet(falls[-1], 0.5) if falls and v[-1] < 0.5 else None
    if had:
        left = out["retention"]
        limits = {"lost": Fraction(1, 2), "fading": Fraction(4, 5), "kept": Fraction(3, 2)}
        return out, next((verdict for verdict, limit in limits.items() if left < limit), "grown")
    gain = p - max(x for s, x in zip(steps, v, strict=True) if s < edge)
    if gain >= (1 - c) / 50 and out["persistence"] >= 0.5:
        return out, "still rising"
    if out["late_persistence"] < 0.5 or late <= f > chance:
        return out, "transient"
    return out, "fading" if out["late_persistence"] < Fraction(4, 5) or later else "persistent"


def test_vectorised_measures_agree_with_loops():
    rng = np.random.default_rng(0)
    for trial in range(200):
        steps = np.cumsum(rng.integers(1, 50, size=rng.integers(2, 30))).astype(float)
        chance = [0.0, 0.03, 0.5][trial % 3]
        values = np.clip(
            chance + rng.choice([0.1, 0.5, 1]) * rng.normal(0.2, 0.3, (4, steps.size)), 0, 1
        ).round(1 + trial % 2)  # coarse values, for ties and exact hits of a level
        floor, pretrained = [0.0, 0.3][trial % 2], trial % 5 == 0 and len(steps) > 3
        batch = Curves(steps, values, chance, floor, pretrained)
        known = measures_of(FLIP_SHARE, pretrained=pretrained)
        found = {name: one.find(batch) for name, one in known.items()}
        verdicts = judge(batch)
        for row, curve in enumerate(values.tolist()):
            expected, verdict = loop_measures(steps.tolist(), curve, chance, floor, pretrained)
            assert VERDICTS[verdicts[row]] == verdict
            for name, value in expected.items():
                value = NAN if value is None else float(value)
                assert found[name][row] == pytest.approx(value, nan_ok=True, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_value_at_a_level_is_at_it_however_sums_round(pretrained):
    """All shares of a rise that decimals can hit: a half, four fifths, one and a half of what was there."""
    steps = [0, 10, 20, 85, 93, 100]
    for base, rise, left in itertools.product(range(0, 60, 4), range(10, 45, 5), (50, 80, 150)):
        kept = rise * left / 100
        if base + max(rise, kept) > 100:
            continue
        first = base + rise if pretrained else base
        v = [round(x / 100, 4) for x in (first, base + rise, base + rise, *[base + kept] * 3)]
        curves = Curves(np.array(steps, float), np.array([v]), base / 100, base / 100, pretrained)
        verdict = loop_measures(steps, v, base / 100, base / 100, pretrained)[1]
        assert VERDICTS[judge(curves)[0]] == verdict, (v, base)


def history(**metrics):
    return [
        {"step": step, "metrics": {name: values[i] for name, values in metrics.items()}}
        for i, step in enumerate(STEPS)
    ]


def test_history_summary():
    rows = history(
        **{
            ICL: [0.0, 0.8, 0.6, 0.2, 0.0],
            IWL: [0.0, 0.0, 0.4, 0.8, 0.8],
            FLIP_SHARE: [0.5, 0.9, 0.7, 0.3, 0.1],
            TRAIN_LOSS: [3.0, 1.0, 0.5, 0.2, 0.1],
            "icl/probability": [0.1] * 5,
        }
    )
    summary = summarize_history(rows, {ICL: 0.0, IWL: 0.0, FLIP_SHARE: 0.5, "icl/probability": 0.1})
    assert summary.verdict == "transient"
    assert set(summary.curves) == {ICL, IWL, FLIP_SHARE, PREFERENCE}
    # S = E_IWL / (E_ICL + E_IWL): 1/2, 1/1.2, .6/1, .2/1, .2/1.2; 1/2 is met a quarter of the way
    # from .6 to .2
    assert summary.curves[PREFERENCE].peak == pytest.approx(1 / 1.2)
    assert summary.curves[PREFERENCE].crossover_step == pytest.approx(225)
    assert summary.crossover_step == pytest.approx(250)
    assert summary.iwl_onset_step == pytest.approx(200)
    assert (summary.loss_at_peak, summary.loss_at_end, summary.loss_falls) == (1.0, 0.1, True)


def test_history_summary_of_what_is_not_there():
    summary = summarize_history([], {ICL: 0.1})
    assert summary.curves == {ICL: CurveSummary(chance=0.1)}
    assert summary.verdict is summary.crossover_step is summary.loss_at_end is summary.loss_falls is None
    only_loss = summarize_history(history(**{TRAIN_LOSS: [1.0, NAN, 2.0, 3.0, None]}), {})
    assert (only_loss.loss_at_peak, only_loss.loss_at_end, only_loss.loss_falls) == (None, 3.0, None)


@pytest.mark.parametrize(
    ("share", "crossover"),
    [
        ([0.5, 0.9, 0.7, 0.3, 0.1], 250),
        ([0.5, 0.9, 0.4, 0.6, 0.4], 350),  # the last fall counts
        ([0.5, 0.9, 0.4, 0.6, 0.6], None),  # ends above
        ([0.5, 0.49, 0.51, 0.45, 0.2], None),  # hovers about 1/2, never rises clear
        ([0.4, 0.2, 0.1, 0.1, 0.1], None),
        ([0.5, 0.9, 0.9, 0.5, 0.5], None),  # 1/2 itself is not below
    ],
)
def test_crossover(share, crossover):
    found = summarize_history(history(**{FLIP_SHARE: share}), {FLIP_SHARE: 0.5}).crossover_step
    assert found == (None if crossover is None else pytest.approx(crossover))


def test_without_a_crossover_it_is_said_on_which_side_the_share_stayed():
    for share, said in (
        ([0.5, 0.49, 0.51, 0.45, 0.2], "never in context"),
        ([0.5, 0.9, 0.9, 0.9, 0.8], "in context to the end"),
    ):
        found = summarize(STEPS, share, 0.5, metric=FLIP_SHARE)
        assert found.crossover_step is None and tell_crossover(found.verdict) == said
    assert tell_crossover(None) is None


def test_onset_is_measured_from_the_floor_up():
    """Naming any label of the context gives 1/2: half of the rise from there to .9 is .7, not (0 + .9)/2."""
    values = [0.0, 0.5, 0.5, 0.9, 0.9]
    assert summarize(STEPS, values, 0.0).onset_step == pytest.approx(90)
    assert summarize(STEPS, values, 0.0, floor=0.5).onset_step == pytest.approx(250)


def test_what_a_default_run_showed_at_12_000_steps_is_a_fade_under_way():
    """Peak .957 at 1,750; .65 of it left at 12,000, where it was called persistent."""
    steps, icl = [0, 500, 1750, 6000, 9000, 10_800, 12_000], [0.03, 0.85, 0.957, 0.93, 0.8, 0.7, 0.65]
    assert summarize(steps, icl, 1 / 32, floor=0.5).verdict == "fading"
    assert summarize([*steps[:-1], 18_000], [*icl[:-1], 0.12], 1 / 32, floor=0.5).verdict == "transient"
    assert (
        summarize(steps, [0.03, 0.85, 0.957, 0.95, 0.94, 0.93, 0.95], 1 / 32, floor=0.5).verdict
        == "persistent"
    )


def test_where_neither_errs_nothing_is_preferred():
    rows = history(**{ICL: [0.0, 1.0, 1.0, 0.5, 1.0], IWL: [0.0, 1.0, 0.5, 1.0, NAN]})
    steps, values = prefer_context(Columns.of(rows))
    assert steps.tolist() == STEPS[:4] and values.tolist() == [0.5, 0.5, 1.0, 0.0]


def test_every_measure_is_defined():
    for definition in describe_measures():
        assert definition["words"].endswith(".") and ">>>" not in definition["words"], definition
        assert definition["formula"], definition


def pack(hits):
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def test_hits_of_another_size_are_refused():
    rows = [{"step": 40, "hits": {ICL: pack(np.ones(1001, bool))}}]
    assert stack_hits(rows, ICL, 1001)[1].sum() == 1001
    with pytest.raises(RunError, match="step 40: hits of icl/accuracy are not those of 100 sequences"):
        stack_hits(rows, ICL, 100)


def test_stacked_hits_are_sorted_and_the_last_of_equal_steps_wins():
    a, b = np.eye(2, 9, dtype=bool)
    rows = [{"step": step, "hits": {ICL: pack(hits)}} for step, hits in [(5, a), (3, a), (5, b)]]
    steps, hits = stack_hits(rows, ICL, 9)
    assert steps.tolist() == [3, 5] and (hits == [a, b]).all()
    assert stack_hits([{"step": 1, "hits": {}}], ICL, 9)[1].shape == (0, 9)
    assert bootstrap_curve(*stack_hits([], ICL, 9), 0.0, ICL) is None


def test_counts_are_resamples_of_all_items():
    counts = draw_counts(np.random.default_rng(0), 400, 50)
    assert (counts.sum(axis=1) == 50).all()
    # of 50 draws each item gets 1 on average, with variance 1 − 1/50
    assert counts.mean() == 1 and counts.var() == pytest.approx(0.98, rel=0.05)


def test_interval_of_a_share_is_binomial():
    hits = np.arange(1000) < 300
    interval = bootstrap_curve(np.array([0.0, 1.0]), np.stack([~hits, hits]), 0.0, ICL).measures["final"]
    expected = stats.binom(1000, 0.3).ppf([0.025, 0.975]) / 1000
    assert interval == pytest.approx(expected, abs=0.004)


@pytest.mark.integration
def test_intervals_cover():
    """In 300 experiments, 95 % intervals hold the truth in 95 % (binomial: 91.2 to 98.8 % within 3 sd)."""
    rng = np.random.default_rng(1)
    truth = np.array([0.1, 0.7, 0.9, 0.9, 0.6])[:, None]
    held = {"peak": 0, "final": 0, "onset_step": 0, "persistence": 0}
    plain = summarize(STEPS, truth[:, 0], 0.1)
    for _ in range(300):
        found = bootstrap_curve(np.array(STEPS, float), rng.random((5, 200)) < truth, 0.1, ICL).measures
        for name in held:
            low, high = found[name]
            held[name] += low <= getattr(plain, name) <= high
    assert all(0.912 <= count / 300 <= 0.988 for count in held.values()), held


def test_resampling_is_paired():
    """All evaluations see one draw: with equal hits at peak and end,
    persistence is exactly 1 in every resample."""
    same = np.random.default_rng(0).random(500) < 0.6
    hits = np.stack([np.zeros(500, bool), same, same])
    found = bootstrap_curve(np.array([0.0, 10.0, 20.0]), hits, 0.0, ICL).measures
    assert found["persistence"] == (1.0, 1.0) and found["area_lost"] == (0.0, 0.0)
    assert found["peak"][0] < 0.6 < found["peak"][1]


def test_an_event_that_may_not_have_come_has_an_open_end():
    rng = np.random.default_rng(0)
    ends_near_half = rng.random((3, 200)) < [[0.0], [1.0], [0.49]]
    found = bootstrap_curve(np.array([0.0, 10.0, 20.0]), ends_near_half, 0.0, ICL)
    low, high = found.measures["half_decay_step"]
    assert low is not None and high is None
    assert 0 < found.verdicts["transient"] < 1 and sum(found.verdicts.values()) == pytest.approx(1)
    never = bootstrap_curve(np.array([0.0, 10.0]), np.zeros((2, 50), bool), 0.0, ICL)
    assert never.measures["onset_step"] is None and never.measures["persistence"] is None


def test_blocks_change_nothing(monkeypatch):
    hits = np.random.default_rng(0).random((6, 40)) < np.linspace(0.1, 0.9, 6)[:, None]
    whole = bootstrap_curve(np.arange(6.0), hits, 0.1, FLIP_SHARE, seed=5)
    monkeypatch.setattr("hf_icl.summary.intervals._BLOCK_ITEMS", 100)
    assert bootstrap_curve(np.arange(6.0), hits, 0.1, FLIP_SHARE, seed=5) == whole


def test_a_long_history_is_resampled_in_time():
    hits = np.random.default_rng(0).random((100, 1000)) < 0.5
    start = time.perf_counter()
    bootstrap_curve(np.arange(100.0), hits, 0.0, FLIP_SHARE)
    assert time.perf_counter() - start < 2


def test_replicas():
    estimate = bootstrap_replicas([0.0, 1.0])  # resamples: 00, 01, 10, 11
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (0.5, 0.0, 1.0, 2)
    many = np.random.default_rng(0).normal(3, 1, 400)
    estimate = bootstrap_replicas(many.tolist())
    half_width = 1.96 * many.std() / 20
    assert (estimate.low, estimate.high) == pytest.approx(
        (many.mean() - half_width, many.mean() + half_width), abs=0.02
    )
    one = bootstrap_replicas([0.25, None])
    assert (one.mean, one.low, one.high, one.n) == (0.25, None, None, 1)
    assert bootstrap_replicas([None]).mean is None


def test_band_holds_the_mean():
    values = np.random.default_rng(0).random((5, 30))
    low, high = bootstrap_band(values)
    assert (low <= values.mean(axis=0)).all() and (values.mean(axis=0) <= high).all()
    assert (low >= values.min(axis=0)).all() and (high <= values.max(axis=0)).all()
