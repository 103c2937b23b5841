"""The modules for `evaluate`: worked by hand, equal to the evaluators, loaded from files,
from code and from the Hub."""

import dataclasses

import evaluate
import pytest
import torch
import yaml

from hf_icl.errors import ConfigError
from hf_icl.metrics import METRICS, find_metric
from hf_icl.metrics.flip_share import FlipShare
from hf_icl.metrics.push import render_space
from hf_icl.metrics.query_accuracy import QueryAccuracy
from hf_icl.metrics.transience import Transience
from hf_icl.summary.summary import summarize
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task

ANSWERS = {
    "predictions": [
        [0.0, 3.0, 1.0, 2.0],
        [1.0, 0.0, 2.0, 3.0],
    ],  # answers 1 and 3; in context 3 (of 3, 2), 3 (of 0, 3)
    "references": [3, 0],
    "context_labels": [[3, 2, 3, 2], [0, 3, 0, 3]],
}


@pytest.fixture(scope="module")
def task():
    bank = {"kind": "gaussian", "n_classes": 40, "n_holdout_classes": 6, "dim": 8, "n_labels": 12}
    return Task(TaskConfig(bank=bank, n_eval_sequences=300), seed=1)


def ask(task, name):
    """Return the inputs of a metric and, of the same answers, what the evaluator says."""
    evaluator = task.evaluators[name]
    logits = torch.randn(len(evaluator.batch), evaluator.n_labels, generator=torch.Generator().manual_seed(0))
    results = evaluator.results(lambda batch: logits, slice(None))
    labels = evaluator.batch.labels
    inputs = {"predictions": logits, "references": labels[:, -1], "context_labels": labels[:, :-1]}
    return inputs, {key.partition("/")[2]: value.double().mean().item() for key, value in results.items()}


def test_worked_by_hand():
    assert QueryAccuracy().compute(**ANSWERS) == {
        "accuracy": 0.0, "accuracy_chance": 0.25, "context_accuracy": 0.5, "context_accuracy_chance": 0.5,
    }  # fmt: skip
    assert FlipShare().compute(**ANSWERS) == {
        "in_context_share": 0.5,
        "in_context_share_chance": 0.5,
        "in_context_accuracy": 0.0,
        "in_weights_accuracy": 0.5,
        "accuracy_chance": 0.25,
    }


@pytest.mark.parametrize("name", ["icl", "icl_holdout", "iwl", "ciwl", "train", "flip"])
def test_accuracy_is_that_of_the_evaluators(task, name):
    inputs, means = ask(task, name)
    found, chance = QueryAccuracy().compute(**inputs), task.chance
    assert found["accuracy"] == means["accuracy"] and found["accuracy_chance"] == chance[f"{name}/accuracy"]
    assert found["context_accuracy"] == means.get("context_accuracy")
    assert found["context_accuracy_chance"] == pytest.approx(chance.get(f"{name}/context_accuracy"))
    assert (found["context_accuracy"] is None) == (name == "iwl" or not task.evaluators[name].scores_context)


def test_flip_share_is_that_of_the_evaluator(task):
    inputs, means = ask(task, "flip")
    found = FlipShare().compute(**inputs)
    assert found["in_context_share"] == means["context_accuracy"]
    assert found["in_context_share_chance"] == task.chance["flip/context_accuracy"] == 0.5
    assert found["in_weights_accuracy"] == means["in_weights_accuracy"] > 0
    assert found["in_context_accuracy"] == means["accuracy"]
    assert found["accuracy_chance"] == task.chance["flip/in_weights_accuracy"]


def test_transience_is_the_summary():
    steps, values = [0, 300, 100, 200, 400], [0.1, 0.3, 0.9, None, 0.1]
    found = Transience().compute(steps=steps, values=values, chance=0.1)
    assert found == dataclasses.asdict(summarize(steps, values, 0.1))
    assert found["verdict"] == "transient" and found["half_decay_step"] == pytest.approx(
        100 + 200 * 0.4 / 0.6
    )
    assert (
        Transience().compute(steps=steps, values=values, chance=0.1, floor=0.95)["verdict"] == "never emerged"
    )


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_loads_by_its_path_and_tells_how_it_is_used(name):
    metric = evaluate.load(find_metric(name))
    assert metric.name == name and metric.description and "Example:" in metric.inputs_description
    for feature in metric.features:
        assert f"    {feature}: " in metric.inputs_description
    assert metric.__doc__ in (metric.description + metric.inputs_description, None)


@pytest.mark.integration
def test_batches_and_combinations_agree_with_one_call(task):
    inputs, _ = ask(task, "flip")
    both = evaluate.combine([find_metric("query_accuracy"), find_metric("flip_share")])
    for start in range(0, 300, 128):
        both.add_batch(**{name: rows[start : start + 128] for name, rows in inputs.items()})
    alone = QueryAccuracy().compute(**inputs) | FlipShare().compute(**inputs)
    assert both.compute() == {
        "query_accuracy_accuracy_chance": alone["accuracy_chance"],
        "flip_share_accuracy_chance": alone["accuracy_chance"],
    } | {key: value for key, value in alone.items() if key != "accuracy_chance"}


@pytest.mark.parametrize(
    ("metric", "change", "words"),
    [
        (QueryAccuracy, {"references": [4, 0]}, "references = 4: with 4 logits, labels are 0 to 3"),
        (QueryAccuracy, {"context_labels": [[-1, 1], [1, 2]]}, "context_labels = -1: with 4 logits"),
        (
            QueryAccuracy,
            {"context_labels": [[1], [1, 2]]},
            r"context_labels = \[1, 2\]: every sequence must have as many",
        ),
        (
            QueryAccuracy,
            {"context_labels": [[], []]},
            r"context_labels = \[0\]: every sequence must have as many",
        ),
        (
            QueryAccuracy,
            {"predictions": [[0.0] * 4, [0.0, float("nan"), 0, 0]]},
            "the logits of sequence 1 are not numbers",
        ),
        (
            FlipShare,
            {"context_labels": [[3, 2], [0, 0]]},
            r"context_labels = \[0, 0\]: sequence 1 must show two labels",
        ),
        (
            FlipShare,
            {"context_labels": [[3, 2, 1], [0, 1, 1]]},
            r"= \[3, 2, 1\]: sequence 0 must show two labels",
        ),
        (FlipShare, {"references": [1, 0]}, "the reference 1 being one of them"),
    ],
)
def test_wrong_inputs_are_named(metric, change, words):
    with pytest.raises(ConfigError, match=words):
        metric(keep_in_memory=True).compute(**ANSWERS | change)


def test_no_such_metric():
    with pytest.raises(
        ConfigError, match="metric = 'flip_shar': there is no such metric. Did you mean flip_share?"
    ):
        find_metric("flip_shar")


@pytest.mark.parametrize("name", METRICS)
def test_the_space_of_a_metric(name):
    files = {path: content.decode() for path, content in render_space(f"me/{name}").items()}
    header = yaml.safe_load(files["README.md"].split("---")[1])
    assert header["sdk"] == "static" and {"evaluate", "metric"} <= set(header["tags"])
    assert files["requirements.txt"].startswith("hf-icl>=")
    assert (
        f'metric = evaluate.load("me/{name}")' in files["README.md"]
        and "find_metric" not in files["README.md"]
    )
    assert "&gt;&gt;&gt;" in files["index.html"] and ">>>" not in files["index.html"]


@pytest.mark.integration
def test_pushed_metrics_load_from_the_hub_and_the_same_again_is_no_commit(hub, launcher):
    names = [f"ann/{name}" for name in METRICS]
    done = launcher.hf_icl("metrics", "push", *names)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:3] == [
        f"Private: the Space {hub.endpoint}/spaces/{name}, seen by its owners only." for name in names
    ]
    assert lines[3:] == [f"Pushed. Load it with: evaluate.load({name!r})" for name in names]
    load = """
        import evaluate
        metric = evaluate.load("ann/flip_share", download_mode="force_redownload")
        given = dict(predictions=[[0., 2., 3.]], references=[2], context_labels=[[1, 2]])
        result = metric.compute(**given)["in_context_share"]
        both = evaluate.combine(["ann/flip_share", "ann/query_accuracy"])
        found = both.compute(predictions=[[0., 2., 3.]], references=[2], context_labels=[[1, 2]])
        result = [result, found["accuracy"], evaluate.load("ann/transience").name]
    """
    assert launcher.run(load) == [1.0, 1.0, "transience"]
    assert hub.requests("GET", "/spaces/ann/flip_share/resolve/")
    before = [hub.repo(f"space {name}").commits for name in names]
    again = launcher.hf_icl("metrics", "push", *names)
    assert [line[:12] for line in again.out.splitlines()[3:]] == ["Nothing new."] * 3
    assert [hub.repo(f"space {name}").commits for name in names] == before


@pytest.mark.integration
def test_who_sees_a_metric_is_asked_for(hub, launcher):
    assert launcher.hf_icl("metrics", "push", "bob/transience", "--public", user="bob/write").out.startswith(
        "Public: "
    )
    seen = 'import evaluate\nresult = evaluate.load("bob/transience").name'
    assert launcher.run(seen, user=None) == "transience"
    no = launcher.hf_icl("metrics", "push", "bob/transience", user="bob/write")
    assert no.code == 2 and "it is there already and public, not private" in no.err
    no = launcher.hf_icl("metrics", "push", "ann/flip_share", "bob/flip_shar")
    assert no.code == 2 and "there is no such metric. Did you mean flip_share?" in no.err and no.out == ""


def test_without_hf_icl_a_metric_says_what_to_install(tmp_path, launcher):
    """`evaluate` reads the module's imports; here the package is hidden from a process that has all
    others."""
    (tmp_path / "flip_share.py").write_bytes(render_space("me/flip_share")["flip_share.py"])
    code = f"""
        import sys
        import evaluate
        package, sys.modules["hf_icl"] = sys.modules["hf_icl"], None
        try:
            evaluate.load({str(tmp_path / "flip_share.py")!r})
        except ImportError as error:
            result = str(error)
        finally:
            sys.modules["hf_icl"] = package
    """
    said = launcher.run(code)
    assert "To be able to use flip_share, you need to install" in said and "pip install hf-icl'" in said
