"""Claims about circuits: arms that graft from others' runs, measures of heads, and of what ablations do."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_icl.circuits.ablated import Ablation
from hf_icl.errors import ConfigError, RunError
from hf_icl.experiments.claim import Claim, ClaimFile
from hf_icl.experiments.evidence import Evidence
from hf_icl.experiments.heads import SCORES, HeadTarget
from hf_icl.experiments.measuring import Measured, check_measure
from hf_icl.experiments.plan import _shape, plan_claims
from hf_icl.experiments.reproduction import reproduce
from hf_icl.experiments.sources import check_sources, find_sources, put_sources
from hf_icl.experiments.stages import list_sources, open_stages
from hf_icl.experiments.words import tell_criterion
from hf_icl.experiments.write import Judged, write_findings
from hf_icl.history.record import RunRecord
from hf_icl.models.build import load_model
from hf_icl.models.groups import find_parameters
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.summary.heads import HeadCurves
from hf_icl.sweeps.config import digest
from hf_icl.sweeps.sweep import match_runs
from hf_icl.task.evaluators import ICL
from tests.programs import TINY

SET = {key: int(value) for key, value in (word.split("=") for word in TINY)}
SET |= {"model.n_layers": 2, "training.steps": 20, "evaluate": {"every": 10, "heads": True}}
KEYS = {"heads": ["L0"], "keep": ["keys", "values"]}
INTERVENTIONS = "training.interventions"


def graft(source: str) -> dict:
    held = {"kind": "freeze", "layers": [1]}
    return {INTERVENTIONS: [{"kind": "graft", "layers": [1], "source": f"arm:{source}"}, held]}


def make_claim(arms: dict, criteria: list[dict] | None = None, name: str = "mine", **fields) -> Claim:
    first = {
        "that": "it rises",
        "take": {"arm": next(iter(arms)), "metric": ICL, "measure": "late"},
        "above": 0,
    }
    scales = {"laptop": {"base": "default", "seeds": [0, 1], "set": SET}}
    told = {"id": name, "title": "A", "statement": "B", "source": "C", "fixed": "2026-11-26"}
    return Claim(**{**told, "arms": arms, "criteria": criteria or [first], "scales": scales, **fields})


# Arms that take something from other arms


def test_arms_that_are_taken_from_are_found_and_replaced_wherever_they_stand():
    names = ["a", "b c", "d"]
    for seed in range(30):
        draw = random.Random(seed)
        wanted = [draw.choice(names) for _ in range(draw.randrange(4))]
        tree = [{"kind": "graft", "source": f"arm:{name}", "layers": [0]} for name in wanted]
        plain = [
            {"kind": "graft", "source": "runs/x"},
            {"kind": "reset", "source": "arm:a"},
            "arm:a",
            1,
            None,
        ]
        mixed = tree + plain
        draw.shuffle(mixed)
        settings = (
            {"x": 1, "training": {"deep": {"interventions": mixed}}} if seed % 2 else {INTERVENTIONS: mixed}
        )
        assert sorted(find_sources(settings)) == sorted(set(wanted))
        told = put_sources(settings, {name: f"/{name}" for name in names})
        assert find_sources(told) == () and json.dumps(told).count("arm:a") == 2 == json.dumps(plain).count(
            "arm:a"
        )
        assert put_sources(settings, {name: f"arm:{name}" for name in names}) == settings


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        (
            {"a": graft("bse"), "base": {}},
            "arms.a.source = 'arm:bse': the claim has no such arm.*Did you mean base",
        ),
        ({"a": graft("a")}, "arms wait for one another: a takes from a"),
        ({"a": graft("b"), "b": graft("c"), "c": graft("a")}, "a takes from b takes from c takes from a"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_anything_is_planned(arms, told):
    with pytest.raises(ConfigError, match=told):
        check_sources(arms, "laptop")
    with pytest.raises(ConfigError, match=told):
        make_claim(arms)


def test_runs_that_others_graft_from_are_planned_with_them_and_come_first(tmp_path):
    claim = make_claim({"last": graft("middle"), "middle": graft("base"), "base": {}, "shown": {"seed": 0}})
    plan = plan_claims([claim], "laptop", judged_only=True)
    assert {arm for _, arm, _ in plan.places} == {
        "last",
        "middle",
        "base",
    }  # though criteria name the last alone
    stages = open_stages(plan.points["default"], tmp_path)
    arms = {key: (arm, seed) for (_, arm, seed), key in plan.places.items()}
    order = [
        sorted(arms[key] for key, place in stages.places.items() if place.runs is one) for one in stages.sets
    ]
    assert order == [[("base", 0), ("base", 1)], [("middle", 0), ("middle", 1)], [("last", 0), ("last", 1)]]
    for (_, arm, seed), key in plan.places.items():
        point = stages.places[key].runs.points[stages.places[key].name]
        source = {"last": "middle", "middle": "base"}.get(arm)
        there = [str(stages.places[plan.places["mine", source, seed]].folder.resolve())] if source else []
        assert list_sources(point.config) == there and point.config.seed == seed
        assert point.config == load_config("default", point.words)  # its command makes the same run
    assert any("arm" in point.name and "middle" in point.name for point in plan.points["default"])


def test_the_same_graft_in_two_claims_is_one_run():
    one = make_claim({"taken": graft("base"), "base": {}}, name="one")
    other = make_claim({"x": graft("plain"), "plain": {}}, name="other")
    plan = plan_claims([one, other], "laptop")
    assert plan.n_runs == 4 == plan.count_shared()


def test_what_is_frozen_or_grafted_is_not_counted_anew_but_changed_attention_is():
    shapes = [
        _shape(load_config("default", {INTERVENTIONS: [one] if one else []}))
        for one in (
            None,
            {"kind": "freeze", "layers": [0]},
            {"kind": "temperature", "heads": ["L0"], "value": 2},
        )
    ]
    assert shapes[0] == shapes[1] != shapes[2]


# Heads, and what their ablation does


def heads_criterion(metric: str, measure: str = "late") -> dict:
    return {"that": "x", "take": {"arm": "base", "metric": metric, "measure": measure}, "below": 0}


@pytest.mark.parametrize(
    ("metric", "measure", "told"),
    [
        ("heads/inducton/flip/L1", "late", "heads have no inducton. Did you mean induction"),
        ("heads/induction/iwl/L1", "late", "heads have no iwl"),
        ("heads/induction/flip", "late", "must name score, evaluator, and a head or a layer"),
        ("heads/induction/flip/L1", "late_persistence", "has no such measure"),
        ("heads/induction/flip/L9", "late", "the model has no such head"),
        ("heads/induction/flip/L1H8", "late", "the model has no such head"),
    ],
)
def test_heads_that_cannot_be_measured_are_refused(metric, measure, told):
    with pytest.raises(ConfigError, match=told):
        plan_claims([make_claim({"base": {}}, [heads_criterion(metric, measure)])], "laptop")


def test_heads_must_be_measured_in_the_runs_that_a_criterion_takes_them_of():
    claim = make_claim(
        {"base": {"evaluate.heads": False}, "x": {}}, [heads_criterion("heads/induction/flip/L1")]
    )
    with pytest.raises(ConfigError, match="evaluate.heads = False: heads must be measured"):
        plan_claims([claim], "laptop")
    claim = make_claim(
        {"base": {}, "x": {"evaluate.heads": False}}, [heads_criterion("heads/induction/flip/L1")]
    )
    assert plan_claims([claim], "laptop").n_runs == 4


def test_a_layers_strongest_head_is_the_one_at_icls_peak_and_is_followed():
    steps = np.array([0, 10, 20])
    values = np.array([[[0.9, 0.0], [0.0, 0.1]], [[0.9, 0.0], [0.2, 0.6]], [[0.9, 0.0], [0.8, -0.5]]])
    curves = {("induction", "flip"): HeadCurves(steps, values, (0, 1))}
    target = HeadTarget.read("heads/induction/flip/L1")
    found = [target.find(curves, measure, 11.0) for measure in ("at_icl_peak", "final", "peak")]
    assert found == [0.6, -0.5, 0.6]
    assert target.find(curves, "final", None) is None and target.find({}, "final", 11.0) is None
    assert HeadTarget.read("heads/induction/flip/L1H0").find(curves, "final", None) == 0.8


@pytest.mark.parametrize(
    ("metric", "measure"), [(ICL, "late"), ("train/loss", "final"), ("heads/induction/flip/L1", "final")]
)
def test_of_ablated_heads_only_the_last_answers_can_be_taken(metric, measure):
    with pytest.raises(ConfigError, match="of ablated heads there is only final"):
        check_measure(metric, measure, under=True)
    check_measure(ICL, "final", under=True)


def test_an_ablation_that_the_model_does_not_allow_is_refused_by_the_plan():
    take = {"arm": "base", "metric": ICL, "measure": "final", "under": {"heads": ["L7"]}}
    with pytest.raises(ConfigError, match="the model has no such head"):
        plan_claims([make_claim({"base": {}}, [{"that": "x", "take": take, "above": 0}])], "laptop")


def test_effects_count_at_the_last_step_and_for_the_same_ablation_alone():
    rows = [{"step": step, "metrics": {ICL: 0.5}} for step in (0, 10, 20)]
    change, other = Ablation(**KEYS), Ablation(heads=["L0"])
    effects = [
        {"step": step, "effects": [{"name": "a", "change": change.to_dict(), "metrics": {ICL: value}}]}
        for step, value in ((10, 0.1), (20, 0.7))
    ]
    run = Measured(RunRecord("a", {}, {}, rows, {ICL: 0.0}, {}, circuits={"effects": effects}))
    assert run.find(ICL, "final", change).value == 0.7 and run.find(ICL, "final", other).value is None
    assert run.find(ICL, "final").value == 0.5


def test_a_criterion_under_an_ablation_reads_as_a_sentence():
    take = {"arm": "base", "metric": ICL, "measure": "final"}
    claim = make_claim({"base": {}}, [{"that": "x", "take": take, "minus": {"under": KEYS}, "below": 0.1}])
    told = "ICL accuracy, final value: base less ICL accuracy without L0, later keys and values kept, "
    assert tell_criterion(claim.criteria[0]).startswith(told)
    assert [term.under for term in claim.terms] == [None, Ablation(**KEYS)]


# What is there counts only if it is the same


def test_a_run_whose_heads_were_not_measured_does_not_stand_for_one_whose_are(tmp_path):
    plain, heads = (
        load_config("default", [f"evaluate={{every: 500, heads: {on}}}"]) for on in ("false", "true")
    )
    often = load_config("default", ["evaluate={every: 100, heads: true}"])
    assert match_runs([heads], {"a": plain}) == {} and match_runs([often], {"a": heads}) == {0: "a"}


# The whole way, on tiny runs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("circuits") / "first"
    criteria = [
        heads_criterion("heads/induction/flip/L1H0") | {"below": 1},
        {
            "that": "keys and values do it",
            "take": {"arm": "base", "metric": ICL, "measure": "final"},
            "minus": {"under": KEYS},
            "below": 2,
        },
        {"that": "it was grafted", "take": {"arm": "taken", "metric": ICL, "measure": "final"}, "below": 2},
    ]
    claim = make_claim({"taken": graft("base"), "base": {}, "frozen": {
        INTERVENTIONS: [{"kind": "freeze", "layers": [0], "start": 10}]}}, criteria, min_seeds=2)  # fmt: skip
    file = ClaimFile(claim, folder.parent / "mine.yaml", "0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        judged = reproduce([file], folder, workers=1)
    return folder, file, judged[0]


def find_folder(folder: Path, file: ClaimFile, arm: str) -> Path:
    plan, evidence = plan_claims([file.claim], "laptop"), Evidence(folder)
    return evidence.find_done(plan, evidence.open_runs(plan), file.claim)[arm, 1]


@pytest.mark.integration
def test_a_claim_with_grafts_heads_and_effects_is_run_and_judged(done):
    folder, file, judged = done
    assert len(judged.runs) == 6 and [set(one.numbers) for one in judged.findings] == [{0, 1}] * 3
    taken, base = (load_model(find_folder(folder, file, arm)) for arm in ("taken", "base"))
    theirs = dict(base.named_parameters())
    same = {name for name, weight in taken.named_parameters() if torch.equal(weight, theirs[name])}
    assert same == set(find_parameters(taken, None, (1,)))
    text = (find_folder(folder, file, "taken") / "run.json").read_text()
    assert str(folder.parent) not in text and '"local:base,seed=1"' in text
    effects = Run.open(find_folder(folder, file, "base")).record().circuits["effects"]
    assert [one["name"] for one in effects[0]["effects"]] == [
        "intact",
        "without L0, later keys and values kept",
    ]


@pytest.mark.integration
def test_what_was_moved_is_known_and_not_made_again(done, tmp_path):
    folder, file, _ = done
    shutil.copytree(folder, tmp_path / "moved")
    shutil.move(folder, folder.with_name("away"))
    try:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").rglob("*") if path.is_file()}
        judged = reproduce([file], tmp_path / "moved", workers=1)[0]
    finally:
        shutil.move(folder.with_name("away"), folder)
    assert len(judged.runs) == 6 and [set(one.numbers) for one in judged.findings] == [{0, 1}] * 3
    weights = [path for path in before if path.suffix in (".safetensors", ".jsonl")]
    assert len(weights) > 6 and all(path.stat().st_mtime_ns == before[path] for path in weights)


@pytest.mark.integration
def test_another_run_of_the_name_is_not_taken_for_it(done):
    folder, file, _ = done
    other = make_claim({"base": {}}, scales={"laptop": {"base": "default", "seeds": [0], "set": {
        **SET, "model.d_model": 32}}})  # fmt: skip
    plan = plan_claims([other], "laptop")
    place = Evidence(folder).open_runs(plan)["default"].places[plan.places["mine", "base", 0]]
    assert place.name.startswith("base,seed=0-") and not place.runs.is_done(place.name)


@pytest.mark.integration
def test_what_an_earlier_call_found_of_other_claims_stays(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "a")
    evidence, first = Evidence(tmp_path / "a"), make_claim({"base": {}}, name="first")
    file = replace(done[1], claim=first)
    plan = plan_claims([first], "laptop")
    page = write_findings([Judged(file, "undecided", "not run yet", [], {})], evidence, plan)
    document = json.loads((tmp_path / "a/claims.json").read_text())
    assert [claim["id"] for claim in document["claims"]] == ["first", "mine"]
    assert document["verdicts"] == {"undecided": 2} and page.read_text().count("data:image/png") == 1
    (tmp_path / "a/claims.json").write_text("{")
    with pytest.raises(RunError, match="claims.json: cannot be read"):
        write_findings([], evidence, plan)


@pytest.mark.integration
def test_claims_name_the_scores_that_runs_have(done):
    names = {
        name.split("/")[1]
        for name in done[2].runs["base", 0].record.columns.metrics
        if name.startswith("heads/")
    }
    assert names <= set(SCORES) and {"induction", "context_mass"} <= names
    assert digest(load_config("default")) != digest(load_config("default", ["seed=1"]))
