"""Claims: what a file may say, what runs say of it, and that nothing counts which came too late."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from hf_icl.cli import main as cli
from hf_icl.errors import ConfigError, RunError
from hf_icl.experiments import (
    Claim,
    Criterion,
    Evidence,
    judge_claim,
    judge_criterion,
    list_claims,
    load_claim,
)
from hf_icl.experiments.claim import ClaimFile
from hf_icl.experiments.evidence import find_commit
from hf_icl.experiments.figures import draw_claim
from hf_icl.experiments.judging import bound_mean, bound_share, correlate_ranks
from hf_icl.experiments.measuring import Measured
from hf_icl.experiments.plan import Pace, check_ids, estimate_cost, find_lacking, plan_claims
from hf_icl.experiments.reproduction import reproduce
from hf_icl.history.record import RunRecord
from hf_icl.runs.config import load_config
from hf_icl.sweeps.sweep import read_last_step
from hf_icl.task.evaluators import FLIP_SHARE, ICL, IWL, TRAIN_LOSS
from tests.programs import ROOT, TINY, environment

EXAMPLE = ROOT / "examples" / "claims" / "more_classes.yaml"
TINY_SET = {key: int(value) for key, value in (word.split("=") for word in TINY)}
TINY_SET = {key: value for key, value in TINY_SET.items() if not key.endswith("bank.n_classes")}
CHANCE = {ICL: 0.0, IWL: 0.0, FLIP_SHARE: 0.5}
LATE = {"arm": "a", "metric": ICL, "measure": "late"}


def make_run(**curves) -> Measured:
    """Return a run with these curves at steps 0, 10, 20, …"""
    n_rows = max(map(len, curves.values()))
    rows = [
        {"step": 10 * place, "metrics": {name: values[place] for name, values in curves.items()}}
        for place in range(n_rows)
    ]
    return Measured(RunRecord("made", {}, {}, rows, CHANCE, {}))


def ends_at(*values: float) -> dict[int, Measured]:
    """Return a run for each seed whose ICL rises to 1 and ends, for a while, at a value."""
    return {seed: make_run(**{ICL: [0.0, 1.0, *[value] * 20]}) for seed, value in enumerate(values)}


def by_arm(**arms) -> dict[tuple[str, int], Measured]:
    return {(arm, seed): run for arm, runs in arms.items() for seed, run in runs.items()}


def make_claim(criteria, **fields) -> Claim:
    about = {"id": "mine", "title": "t", "statement": "s", "source": "ours", "fixed": "2026-11-25"}
    arms = {"arms": {"a": {}, "b": {"model.n_layers": 3}}}
    return Claim(**about | arms | {"criteria": criteria, "scales": {"laptop": {"base": "default"}}} | fields)


# What a file may say


CRITERION = {"that": "x", "take": LATE, "above": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"take": None}, "needs take or trend"),
        (
            {"trend": {"arms": ["a", "b", "c"], "metric": ICL, "measure": "peak"}},
            "needs take or trend, and not both",
        ),
        ({"below": 0.1}, "needs above or below, and not both"),
        ({"above": None}, "needs above or below"),
        ({"minus": {"arm": "b"}, "over": {"arm": "b"}}, "minus or over, not both"),
        ({"over": {"arm": "b"}, "above": -1}, "a ratio is compared with a positive number"),
        ({"unit": "spread"}, "the spread is that over the seeds of minus"),
        ({"take": LATE | {"measure": "persistance"}}, "no such measure. Did you mean persistence"),
        ({"take": LATE | {"measure": "is transent"}}, "no verdict is 'transent'. Did you mean transient"),
        ({"take": LATE | {"measure": "crossover_step"}}, "icl/accuracy has no such measure"),
        ({"take": LATE | {"metric": TRAIN_LOSS, "measure": "peak"}}, "train/loss has no such measure"),
        ({"take": {"arm": "a", "metric": ICL}}, "must name arm, metric and measure"),
        ({"in_seeds": 1.5}, "in_seeds = 1.5"),
        ({"takes": 3}, "takes = 3: unknown key. Did you mean take"),
    ],
)
def test_mistakes_in_a_criterion_name_field_rule_and_way_out(change, message):
    with pytest.raises(ConfigError, match=message):
        Criterion(**CRITERION | change)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"criteria": [CRITERION | {"take": LATE | {"arm": "c"}}]},
            "criteria.0.arm = 'c': the claim has no such arm",
        ),
        ({"scales": {"laptop": {"base": "default", "arms": {"c": {}}}}}, "scales.laptop.arms = 'c'"),
        ({"criteria": []}, "a claim needs one or more"),
        ({"scales": {}}, "say under untestable why"),
        ({"id": "Mine!"}, "id = 'Mine!'"),
        ({"min_seeds": 1}, "min_seeds = 1"),
        ({"fixed": "soon"}, "fixed = 'soon'"),
    ],
)
def test_mistakes_in_a_claim_name_field_rule_and_way_out(fields, message):
    fields = dict(fields)
    with pytest.raises(ConfigError, match=message):
        make_claim(fields.pop("criteria", [CRITERION]), **fields)


def test_arms_that_are_doses_are_called_after_their_values():
    strength = "training.regularization.strength"
    dose = {"key": strength, "values": [0, 1e-4], "set": {"training.regularization.kind": "l2"}}
    claim = make_claim([CRITERION], doses={"L2": dose})
    assert list(claim.all_arms) == ["a", "b", "L2 0", "L2 1e-4"]
    assert claim.settings("L2 1e-4", "laptop") == {"training.regularization.kind": "l2", strength: 1e-4}


def test_a_claim_that_cannot_be_tested_says_why_and_has_no_runs():
    claim = make_claim([], scales={}, untestable="no such data here")
    assert judge_claim(claim, (), {}) == ("undecided", "no such data here", [])
    assert plan_claims([claim], "laptop").n_runs == 0


@pytest.mark.integration
def test_every_claim_of_the_package_can_be_planned_at_both_scales():
    claims = [load_claim(name).claim for name in list_claims()]
    assert [claim.id for claim in claims] == list(list_claims())
    for scale in ("laptop", "paper"):
        testable = [claim for claim in claims if scale in claim.scales]
        for claim in testable:
            assert plan_claims([claim], scale, 1).n_runs <= len(claim.all_arms)


def test_unknown_claims_and_broken_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match="neither a claim's id nor a .yaml file"):
        load_claim("nothing")
    (tmp_path / "x.yaml").write_text(EXAMPLE.read_text() + "titel: y\n")
    with pytest.raises(ConfigError, match="x.yaml.titel = 'y': unknown key. Did you mean title"):
        load_claim(tmp_path / "x.yaml")


# Numbers of a run


def test_numbers_of_a_run_by_hand():
    run = make_run(
        **{
            ICL: [0.0, 0.8, 0.9, 0.2, 0.1],
            FLIP_SHARE: [0.5, 0.52, 0.5, 0.4, 0.3],
            IWL: [0.0, 0.1, 0.1, 0.1, 0.1],
            TRAIN_LOSS: [3.0, 1.0, 0.5, 0.2, 0.1],
        }
    )
    found = {
        (ICL, "peak"): (0.9, False),
        (ICL, "emerged"): (1, False),
        (ICL, "is transient"): (1, False),
        (ICL, "is persistent or fading"): (0, False),
        (ICL, "reaches 0.4"): (5, False),
        (IWL, "reaches 0.5"): (40, True),  # not yet: the last step stands for it
        (IWL, "emerged"): (0, False),
        (IWL, "onset_step"): (None, False),
        (FLIP_SHARE, "crossover_step"): (None, False),  # never in context: there is nothing to cross
        (TRAIN_LOSS, "falls"): (1, False),
        (TRAIN_LOSS, "at_icl_peak"): (0.5, False),
        (TRAIN_LOSS, "late"): (0.12, False),  # over [36, 40], from 0.14 to 0.1
        ("mine/accuracy", "peak"): (None, False),
    }
    for (metric, measure), (value, censored) in found.items():
        number = run.find(metric, measure)
        assert number.value == (None if value is None else pytest.approx(value)), (metric, measure)
        assert number.censored == censored
    stays = make_run(**{ICL: [0.0, 0.9, 0.9], FLIP_SHARE: [0.5, 0.9, 0.9]})
    assert stays.find(ICL, "half_decay_step") == stays.find(FLIP_SHARE, "crossover_step") == (20.0, True)


# Intervals over seeds


def test_an_interval_of_few_is_the_wider_of_the_bootstraps_and_students():
    values = np.array([0.4, 0.1, 0.2])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / 3**0.5
    assert bound_mean(values)[1:] == pytest.approx((values.mean() - half, values.mean() + half))
    skewed = np.array([0.0] * 7 + [1.0] * 5)
    resampled = [np.random.default_rng(0).choice(skewed, (100_000, 12)).mean(axis=1)]
    mean, low, high = bound_mean(skewed)
    assert low <= np.quantile(resampled, 0.025) < mean < np.quantile(resampled, 0.975) <= high
    assert bound_mean(np.array([0.1])) == (0.1, None, None) and bound_mean(np.array([])) == (None, None, None)
    assert bound_mean(np.array([0.3] * 4)) == (0.3, 0.3, 0.3)


@pytest.mark.integration
@pytest.mark.parametrize("n", [3, 5, 8])
def test_intervals_of_few_numbers_cover(n):
    """Of 400 experiments, 95 % intervals of normal and of skewed numbers hold the mean in about 95 %."""
    rng = np.random.default_rng(0)
    for draw, least in ((rng.standard_normal, 0.93), (lambda size: rng.exponential(size=size) - 1, 0.85)):
        held = 0
        for _ in range(400):
            _, low, high = bound_mean(draw(n))
            held += low <= 0 <= high
        assert least <= held / 400 <= 0.985, (n, held)


def test_a_share_has_the_interval_of_wilson():
    """By hand, for 5 of 8 with z = 1.96: the middle (5/8 + z²/16)/(1 + z²/8), and the half width."""
    mean, low, high = bound_share(np.array([1.0] * 5 + [0.0] * 3))
    z = 1.959964
    middle, width = (
        (0.625 + z**2 / 16) / (1 + z**2 / 8),
        z / (1 + z**2 / 8) * math.sqrt(0.625 * 0.375 / 8 + z**2 / 256),
    )
    assert (mean, low, high) == pytest.approx((0.625, middle - width, middle + width), abs=1e-5)
    assert bound_share(np.zeros(8))[:2] == (0, 0)


def test_rank_correlation_by_hand():
    # orders 0 1 2 3 and 0 2 1 3: 1 − 6 · (1 + 1) / (4 · 15)
    assert correlate_ranks([0.1, 0.5, 0.3, 0.9]) == pytest.approx(0.8)
    assert correlate_ranks([0.9, 0.3, 0.5, 0.1]) == pytest.approx(-0.8)


# Verdicts


def judge(criterion, runs, seeds=8, **options):
    return judge_criterion(Criterion(**{"that": "x"} | criterion), range(seeds), runs, **options)


def test_a_level_is_met_missed_or_open():
    runs = by_arm(a=ends_at(*[0.50, 0.55, 0.60, 0.65] * 2))
    for bound, verdict in ((0.3, "holds"), (0.57, "undecided"), (0.9, "does not hold")):
        assert judge({"take": LATE, "above": bound}, runs).verdict == verdict
        opposite = {"holds": "does not hold", "does not hold": "holds"}.get(verdict, verdict)
        assert judge({"take": LATE, "below": bound}, runs).verdict == opposite
    assert judge({"take": LATE, "above": 0.57}, runs).why == "the interval holds the bound"


def test_arms_are_paired_by_seed():
    """Seeds differ by far more than the arms do, and in every one of them a is higher by 0.05."""
    base = np.linspace(0.1, 0.9, 8)
    runs = by_arm(a=ends_at(*base + 0.05), b=ends_at(*base))
    finding = judge({"take": LATE, "minus": {"arm": "b"}, "above": 0}, runs)
    assert finding.verdict == "holds" and finding.interval.mean == pytest.approx(0.05)
    assert finding.interval.low == pytest.approx(0.05) and finding.numbers[3] == pytest.approx(0.05)
    shuffled = by_arm(a=ends_at(*base[::-1] + 0.05), b=ends_at(*base))
    assert judge({"take": LATE, "minus": {"arm": "b"}, "above": 0}, shuffled).verdict == "undecided"


def test_a_bound_may_count_in_spreads_of_the_seeds():
    base = np.array([0.4, 0.5, 0.6, 0.5, 0.4, 0.6, 0.5, 0.5])
    runs = by_arm(a=ends_at(*base + 0.2), b=ends_at(*base))
    finding = judge({"take": LATE, "minus": {"arm": "b"}, "above": 2, "unit": "spread"}, runs)
    assert finding.bound == pytest.approx(2 * base.std(ddof=1)) and finding.verdict == "holds"
    far = judge({"take": LATE, "minus": {"arm": "b"}, "above": 3, "unit": "spread"}, runs)
    assert far.verdict == "does not hold"


def test_a_ratio_of_steps_has_a_geometric_mean_and_counts_what_has_not_come():
    def falls_after(rows):
        return make_run(**{ICL: [0.0, 1.0, *[1.0] * rows, 0.0, *[0.0] * (20 - rows)]})

    runs = by_arm(
        a={seed: falls_after(7) for seed in range(7)} | {7: make_run(**{ICL: [0.0, *[1.0] * 22]})},
        b={seed: falls_after(2) for seed in range(8)},
    )
    take = {"arm": "a", "metric": ICL, "measure": "half_decay_step"}
    finding = judge({"take": take, "over": {"arm": "b"}, "above": 2}, runs)
    assert finding.numbers[0] == pytest.approx(85 / 35) and finding.numbers[7] == pytest.approx(220 / 35)
    assert finding.censored == (7,)
    logs = [math.log(85 / 35)] * 7 + [math.log(220 / 35)]
    assert finding.interval.mean == pytest.approx(math.exp(sum(logs) / 8)) and finding.verdict == "holds"


def test_a_trend_is_a_correlation_per_seed():
    rise = {
        arm: ends_at(*[level + 0.01 * seed for seed in range(8)])
        for arm, level in zip("abc", (0.2, 0.4, 0.7), strict=True)
    }
    trend = {"arms": ["a", "b", "c"], "metric": ICL, "measure": "late"}
    assert judge({"trend": trend, "above": 0.5}, by_arm(**rise)).verdict == "holds"
    assert judge({"trend": trend, "below": 0}, by_arm(**rise)).verdict == "does not hold"


def test_a_share_of_seeds_and_how_many_must_be_beyond():
    runs = by_arm(a=ends_at(*[0.1] * 7, 0.55), b=ends_at(*[0.5] * 8))
    take = LATE | {"measure": "is transient"}
    assert (
        judge({"take": take, "above": 0.4}, runs).verdict == "holds"
    )  # Wilson's lower end of 7 of 8 is 0.53
    assert judge({"take": take, "above": 0.6}, runs).verdict == "undecided"
    difference = {"take": LATE, "minus": {"arm": "b"}, "below": 0}
    assert judge(difference | {"in_seeds": 0.8}, runs).verdict == "holds"
    all_but = judge(difference | {"in_seeds": 0.9, "below": 0}, runs)
    assert (
        all_but.verdict == "undecided"
        and all_but.why == "beyond the bound in 7 of 8 seeds, where 8 are needed"
    )


def test_seeds_without_the_measure_are_left_out_and_named():
    never = make_run(**{ICL: [0.0, 0.1, 0.1]})
    runs = by_arm(a=ends_at(*[0.8] * 8) | {2: never})
    finding = judge({"take": LATE | {"measure": "late_persistence"}, "above": 0.5}, runs)
    assert finding.missing == (2,) and len(finding.numbers) == 7 and finding.verdict == "holds"
    del runs["a", 5]
    assert (
        len(judge({"take": LATE, "above": 0.5}, runs).numbers) == 7
    )  # not trained yet: neither here nor missing


def test_a_claim_built_to_fail_fails_and_one_with_few_seeds_stays_open():
    runs = by_arm(a=ends_at(*[0.2, 0.3] * 4), b=ends_at(*[0.8, 0.9] * 4))
    wrong = {"that": "a ends higher", "take": LATE, "minus": {"arm": "b"}, "above": 0}
    right = {"that": "a ends lower", "take": LATE, "minus": {"arm": "b"}, "below": 0}
    verdict, why, findings = judge_claim(make_claim([right, wrong]), range(8), runs)
    assert verdict == "does not hold" and why == "a ends higher: the whole interval is on the other side"
    assert [finding.verdict for finding in findings] == ["holds", "does not hold"]
    assert judge_claim(make_claim([right]), range(8), runs)[0] == "holds"
    verdict, why, (finding,) = judge_claim(make_claim([right]), range(2), runs)
    assert (verdict, why, finding.leaning) == ("undecided", "a ends lower: 2 of at least 3 seeds", "holds")
    verdict, why, (finding,) = judge_claim(make_claim([right]), range(8), {})
    assert (verdict, why, finding.interval.mean) == ("undecided", "not run yet", None)


def test_a_claim_of_which_one_arm_is_run_is_drawn_and_told_with_what_is_there(tmp_path):
    """The other criterion has no numbers: it has no panel, and is undecided."""
    runs = by_arm(a=ends_at(*[0.2, 0.3] * 4))
    there = {"that": "a ends low", "take": LATE, "below": 0.5}
    claim = make_claim([there, {"that": "lower than b", "take": LATE, "minus": {"arm": "b"}, "below": 0}])
    verdict, why, findings = judge_claim(claim, range(8), runs)
    assert (verdict, why) == ("undecided", "lower than b: 0 of at least 3 seeds")
    figure = draw_claim(claim, findings, runs)
    assert [axes.get_title(loc="left") for axes in figure.get_axes()] == [
        "ICL accuracy",
        "IWL accuracy",
        "a ends low",
    ]
    figure.savefig(tmp_path / "figure.png")


def test_the_level_is_shared_by_the_criteria_of_a_claim():
    criteria = [{"that": str(n), "take": LATE, "above": 0.1} for n in range(4)]
    findings = judge_claim(make_claim(criteria), range(8), by_arm(a=ends_at(*np.linspace(0.3, 0.7, 8))))[2]
    alone = judge({"take": LATE, "above": 0.1}, by_arm(a=ends_at(*np.linspace(0.3, 0.7, 8))))
    assert {finding.level for finding in findings} == {1 - 0.05 / 4} and alone.level == 0.95
    assert findings[0].interval.low < alone.interval.low < alone.interval.high < findings[0].interval.high


# Plans


def test_runs_that_claims_share_are_planned_once():
    wide = {"key": "model.d_model", "values": [32, 64]}
    one, other = make_claim([CRITERION]), make_claim([CRITERION], id="other", doses={"width": wide})
    plan = plan_claims([one, other], "laptop", 2)
    assert (
        plan.n_runs == 6 and len(plan.places) == 12 and plan.count_shared() == 6
    )  # width 64 is a, a and b are shared
    names = [point.name for point in plan.points["default"]]
    arms = ("base", "n_layers=3", "d_model=32")
    assert names == [f"{arm},seed={seed}" for arm in arms for seed in (0, 1)]
    assert plan.places["mine", "a", 1] == plan.places["other", "width 64", 1]
    assert plan_claims([one], "laptop").seeds == {"mine": tuple(range(8))}


def test_arms_that_no_criterion_names_can_be_left_out():
    claim = make_claim([CRITERION])  # of arm a alone
    plan = plan_claims([claim], "laptop", 2, judged_only=True)
    assert plan.places.keys() == {("mine", "a", 0), ("mine", "a", 1)} and plan.n_runs == 2
    whole = plan_claims([claim, make_claim([CRITERION], id="other", arms={"a": {}})], "laptop", 2)
    assert [point.name for point in whole.list_points([claim])] == [
        "base,seed=0", "base,seed=1", "n_layers=3,seed=0", "n_layers=3,seed=1",
    ]  # fmt: skip


def test_errors_in_an_arm_name_claim_arm_and_scale():
    claim = make_claim([CRITERION], arms={"a": {"model.n_layer": 2}})
    with pytest.raises(ConfigError, match="model.n_layer = 2: .*In claim mine, arm 'a', scale laptop"):
        plan_claims([claim], "laptop")
    with pytest.raises(ConfigError, match="--scale = 'huge': no claim has this scale. There are: laptop"):
        plan_claims([make_claim([CRITERION])], "huge")


@pytest.mark.integration
def test_costs_are_counted_once_for_runs_of_one_shape():
    budgets = {}
    claim = make_claim(
        [CRITERION], scales={"laptop": {"base": "default", "set": TINY_SET | {"training.steps": 50}}}
    )
    plan = plan_claims([claim], "laptop")
    cost = estimate_cost(plan.points["default"], Pace(1e-3), budgets)
    assert len(budgets) == 2 and cost.n_runs == 16 and cost.steps == 16 * 50
    assert cost.hours == pytest.approx(cost.flops / 3.6e12) and cost.disk > 0


@pytest.mark.parametrize(
    ("words", "flops", "seconds"),
    [
        ([], 10**9, 10_000 * 2 * 0.5e-3),  # compiled: two layers, half a millisecond each
        (["training.compile=false"], 10**9, 10_000 * 2 * 4e-3),
        ([], 10**14, 50.0),  # enough to do: its operations at 2 TFLOP/s
        (["model.backbone={model_type: gpt2}"], 10**9, 0.0005),  # whose shortest step is not known
    ],
)
def test_a_run_takes_as_long_as_its_operations_or_its_shortest_steps(words, flops, seconds):
    config = load_config("default", ["training.steps=10000", *words])
    pace = Pace(tflops=2.0, compiled_ms=0.5, stock_ms=4.0)
    assert pace.seconds(config, flops) == pytest.approx(seconds)


def test_two_claims_of_one_id_are_refused(tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "copy.yaml")
    with pytest.raises(ConfigError, match="id = 'more-classes': is the id of"):
        check_ids([load_claim(EXAMPLE), load_claim(tmp_path / "copy.yaml")])


# The whole way, on tiny runs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The example's claim at a scale of tiny runs, three seeds of five where four are needed, and one that
    is built to fail."""
    folder = tmp_path_factory.mktemp("claims")
    tree = yaml.safe_load(EXAMPLE.read_text())
    settings = TINY_SET | {"training.steps": 40, "evaluate": 10, "training.checkpoint_every": 20}
    tree["scales"]["tiny"] = {"base": "default", "seeds": [0, 1, 2, 3, 4], "set": settings}
    tree["min_seeds"] = 4
    (folder / "claim.yaml").write_text(yaml.safe_dump(tree))
    wishful = [{"that": "all is learned", "take": LATE | {"arm": "few"}, "above": 0.99}]
    tree |= {"id": "wishful", "arms": {"few": tree["arms"]["few"]}, "criteria": wishful, "min_seeds": 3}
    (folder / "wishful.yaml").write_text(yaml.safe_dump(tree))
    console = Console(record=True, width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        files = [load_claim(folder / "claim.yaml"), load_claim(folder / "wishful.yaml")]
        judged = reproduce(files, folder / "out", scale="tiny", n_seeds=3, workers=1, console=console)
    return folder, files[0], judged, console.export_text()


def read(folder: Path) -> dict:
    return json.loads((folder / "out/claims.json").read_text())


@pytest.mark.integration
def test_the_example_is_run_judged_and_written(done):
    folder, file, (judged, _), _ = done
    document = read(folder)
    claim = document["claims"][0]
    assert judged.verdict == claim["verdict"] == "undecided" and "3 of at least 4 seeds" in claim["why"]
    assert len(judged.runs) == claim["n_runs"] == 6 and claim["seeds"] == [0, 1, 2]
    assert claim["digest"] == file.digest == claim["evidence"]["digest"] and document["wall_seconds"] > 0
    assert (
        set(claim["criteria"][0]["numbers"]) == {"0", "1", "2"}
        and claim["criteria"][0]["interval"] is not None
    )
    assert (
        claim["emerged"].keys() == {"few", "many"} and claim["settings"]["many"]["task.bank.n_classes"] == 512
    )
    page = (folder / "out/index.html").read_text()
    number = claim["criteria"][0]["told"].split()[0]
    assert f'<span class="whole">{number} <span>[' in page  # and its interval, on one line
    assert "More classes, better ICL" in page and "data:image/png;base64," in page and "undecided" in page
    assert (folder / "out/figures/more-classes.png").stat().st_size > 5_000
    assert sorted(path.name for path in (folder / "out/default/runs").iterdir())[0] == "n_classes=512,seed=0"


@pytest.mark.integration
def test_what_is_done_is_not_done_again_and_seeds_can_be_added(done):
    folder, file, _, _ = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.safetensors")}
    judged = reproduce([file], folder / "out", scale="tiny", train=False)[0]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(judged.runs) == 6 and judged.seeds == [0, 1, 2] and judged.verdict == "undecided"
    plan = plan_claims([file.claim], "tiny", 4)
    (runs,) = Evidence(folder / "out").open_runs(plan)["default"].sets
    left = [name for job in runs.share_out(1) for name in job.names]
    assert left == ["n_classes=64,seed=3", "n_classes=512,seed=3"]


@pytest.mark.integration
def test_a_claim_built_to_fail_fails_on_the_runs_of_another(done):
    """After 40 steps nothing is learned, and it says that everything is; it shares an arm, which ran once."""
    folder, _, judged, _ = done
    wishful = judged[1]
    assert wishful.verdict == "does not hold" and "on the other side" in wishful.why
    assert wishful.runs.keys() == {("few", seed) for seed in range(3)}
    assert len(list((folder / "out/default/runs").iterdir())) == 6


@pytest.mark.integration
def test_a_claim_whose_exemplars_cannot_be_had_stays_open_and_stops_no_other(done, tmp_path):
    folder, file, _, _ = done
    shutil.copytree(folder / "out", tmp_path / "out")
    bank = {"kind": "features", "source": str(tmp_path / "gone.npy"), "n_classes": 8}
    scales = {"tiny": {"base": "default", "set": {"task.bank": bank}}}
    other = ClaimFile(make_claim([CRITERION], scales=scales), tmp_path / "x.yaml", "0")
    assert find_lacking([file.claim], "tiny") == {}
    first, second = reproduce([other, file], tmp_path / "out", scale="tiny", n_seeds=3)
    assert first.verdict == "undecided" and not first.runs and len(second.runs) == 6
    assert "its exemplars cannot be had" in first.why and "gone.npy" in first.why
    assert "mine" not in json.loads((tmp_path / "out/evidence.json").read_text())["claims"]


def test_a_run_that_diverged_counts_for_nothing():
    rows = [
        {"step": step, "metrics": {ICL: 0.9, TRAIN_LOSS: loss}} for step, loss in enumerate((3.0, math.nan))
    ]
    run = Measured(RunRecord("made", {}, {}, rows, CHANCE, {}))
    assert run.diverged == 1 and run.find(ICL, "peak").value is None
    sound = ends_at(*[0.9] * 8)
    finding = judge({"take": LATE, "above": 0.5}, by_arm(a=sound | {3: run}))
    assert finding.missing == (3,) and finding.verdict == "holds"


@pytest.mark.slow
def test_page_and_numbers_go_into_a_space_and_the_same_again_is_no_commit(done, hub, launcher):
    folder, _, _, _ = done
    pushed = launcher.hf_icl("claims", "push", folder / "out", "ann/claims")
    assert pushed.code == 0, pushed.err
    first, last = pushed.out.splitlines()
    assert first == f"Private: the Space {hub.endpoint}/spaces/ann/claims, seen by its owners only."
    space = hub.repo("space ann/claims")
    for name in ("index.html", "claims.json", "evidence.json", "figures/more-classes.png"):
        assert space.files[name] == (folder / "out" / name).read_bytes()
    card = space.files["README.md"]
    assert b"sdk: static" in card and b"**undecided**" in card
    again = launcher.hf_icl("claims", "push", folder / "out", "ann/claims")
    assert again.out.splitlines()[-1] == "Nothing new."
    assert hub.repo("space ann/claims").commits == space.commits
    nothing = launcher.hf_icl("claims", "push", folder, "ann/claims")
    assert nothing.code == 2 and "no claims were judged there" in nothing.err


@pytest.mark.integration
def test_a_claim_that_was_edited_after_its_runs_is_refused(done, tmp_path):
    folder, file, _, _ = done
    shutil.copytree(folder / "out", tmp_path / "out")
    text = file.path.read_text()
    edited = tmp_path / "claim.yaml"
    edited.write_text(text.replace("above: 0.1", "above: 0.01"))
    judged = reproduce([load_claim(edited)], tmp_path / "out", scale="tiny", n_seeds=3)[0]
    assert (
        judged.verdict == "refused" and "changed after its runs began" in judged.why and not judged.findings
    )
    assert "refused" in (tmp_path / "out/index.html").read_text()
    edited.write_text("# a remark\n" + text)  # says the same
    assert (
        load_claim(edited).digest == file.digest
        and Evidence(tmp_path / "out").refuse(load_claim(edited)) is None
    )


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="holds no claims' runs"):
        Evidence(tmp_path)
    for text in ("{", '{"schema": 1}', '{"schema": 9, "claims": {}}'):
        (tmp_path / "evidence.json").write_text(text)
        with pytest.raises(RunError, match="evidence.json: (cannot be read|was written by another version)"):
            Evidence(tmp_path)


def test_the_commit_that_fixed_a_claim_is_known_unless_it_changed_since(tmp_path):
    def git(*words):
        name = ["-c", "user.name=x", "-c", "user.email=x@y"]
        return subprocess.run(
            ["git", *name, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    path = tmp_path / "claim.yaml"
    path.write_text("a")
    assert find_commit(path) is None
    git("init")
    assert find_commit(path) is None
    git("add", "claim.yaml")
    git("commit", "-m", "x")
    assert find_commit(path) == git("rev-parse", "HEAD").strip()
    path.write_text("b")
    assert find_commit(path) is None


# Command line


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_claims_are_listed_and_explained():
    listed = invoke("claims")
    assert all(name in listed for name in list_claims())
    told = " ".join(invoke("claims", "show", str(EXAMPLE)).split())
    assert "ICL accuracy, late value: many less few, on average above 0.1, and in 75 % of seeds" in told
    assert "Scale laptop: base default, seeds 0, 1, 2, 3, 4" in told and "interval of 97.5 %" in told


@pytest.mark.integration
def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = invoke("reproduce", str(EXAMPLE), "--seeds", "2", "--dry-run", "--tflops", "0.02")
    assert "1 claims, 4 runs (0 more are shared)" in told and "each worker: 4 runs, 16,000 steps" in told
    assert not any(tmp_path.iterdir())


def write_tiny(claim_id: str, path: Path, steps: int) -> None:
    """Write a claim of the package with a laptop of tiny runs."""
    tree = yaml.safe_load(list_claims()[claim_id].read_text("utf-8"))
    settings = TINY_SET | {"training.steps": steps, "evaluate": 50, "training.checkpoint_every": 100}
    tree["scales"] = {"laptop": {"base": "default", "seeds": [0, 1, 2], "set": settings}}
    path.write_text(yaml.safe_dump(tree))


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path):
    """The claim l2, from an empty folder, killed in mid-training: its runs are those of one never killed."""
    write_tiny("l2", tmp_path / "l2.yaml", steps=600)
    command = [sys.executable, "-m", "hf_icl", "reproduce", "l2.yaml", "--output", "out", "--workers", "1"]
    quiet = {"cwd": tmp_path, "env": environment(TORCHDYNAMO_DISABLE="1"), "stdout": subprocess.DEVNULL}
    child = subprocess.Popen(command, **quiet)
    history = tmp_path / "out/default/runs/kind=l2,strength=3e-4,seed=1/history.jsonl"
    end = time.monotonic() + 300
    while read_last_step(history) < 200:
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(1)  # its worker ends with it
    assert subprocess.run(command, **quiet).returncode == 0
    claim = json.loads((tmp_path / "out/claims.json").read_text())["claims"][0]
    assert claim["n_runs"] == 24 and all(len(one["numbers"]) == 3 for one in claim["criteria"])
    whole = ["whole" if word == "out" else word for word in command]
    assert subprocess.run(whole, **quiet).returncode == 0
    other = tmp_path / "whole/default/runs/kind=l2,strength=3e-4,seed=1/history.jsonl"
    assert history.read_bytes() == other.read_bytes()


# The package's own


@pytest.mark.parametrize("scale", ["laptop", "omniglot", "paper"])
def test_all_claims_of_the_package_can_be_planned(scale):
    claims = [load_claim(name).claim for name in list_claims()]
    plan = plan_claims(claims, scale, 1)
    assert plan.n_runs + plan.count_shared() == len(plan.places)
    assert len(claims) >= 16 and all(claim.read for claim in claims)
    for points in plan.points.values():
        assert len({point.name for point in points}) == len(points)
        assert not any(point.name.startswith("base-") for point in points)


@pytest.mark.parametrize("name", list_claims())
def test_a_claim_of_the_package_says_where_it_differs(name):
    """In words; its untested statements say why, and those without the laptop's scale why they have none."""
    claim = load_claim(name).claim
    scale = claim.scales.get("laptop") or claim.scales["paper"]
    assert claim.untestable or (scale.differs and len(scale.seeds) == 8)
    assert claim.untestable or ("laptop" in claim.scales) != ("laptop" in claim.read)
