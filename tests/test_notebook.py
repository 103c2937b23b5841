"""What a notebook shows: a table that grows while it trains, objects in a line or a table, a figure."""

import dataclasses
import html
import re

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from hf_icl.banks.own import bank_from_numpy
from hf_icl.errors import RunError
from hf_icl.history.history import History
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from tests.programs import environment
from tests.test_callback import BANK, add, build

CELLS = {
    "setup": """
        from transformers import GPT2Config, Trainer, TrainingArguments
        from hf_icl import ICLModel, Task, TaskConfig, TransienceCallback
        task = Task(TaskConfig(n_eval_sequences=20))
        backbone = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16)
        model = ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context)
        args = TrainingArguments("run", max_steps=6, use_cpu=True, save_strategy="no", report_to="none",
                                 logging_steps=3, eval_strategy=STRATEGY, eval_steps=3)
        trainer = Trainer(model, args, train_dataset=task.dataset(48), eval_dataset=task.dataset(8),
                          data_collator=task.collate)
        callback = TransienceCallback(task, schedule=3, log=trainer.log)
        trainer.add_callback(callback)""",
    "train": "trainer.train();",
    "plot": "callback.plot()",
    "summary": "callback.summary()",
    "report": "callback.report('report').page.exists()",
    **{name: name for name in ("task", "task.bank", "task.sampler()", "task.evaluators", "callback.history")},
}


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=20))


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    trainer = build(folder, task)
    callback = add(trainer, task)
    trainer.train()
    return callback, folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["no", "steps"])
def test_a_real_kernel_shows_icl_and_iwl_and_short_objects(tmp_path, monkeypatch, strategy):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    sources = [re.sub(r"^ {8}", "", source.strip("\n"), flags=re.M) for source in CELLS.values()]
    sources[0] = f"STRATEGY = {strategy!r}\n{sources[0]}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        name: [output.get("data", {}) for output in cell.outputs]
        for name, cell in zip(CELLS, notebook.cells, strict=True)
    }
    tables = "".join(data.get("text/html", "") for data in shown["train"])
    assert "Training Loss" in tables  # transformers' own
    assert re.search("<th>icl/accuracy</th>.*<th>iwl/accuracy</th>.*<td>6</td>", tables, re.S)
    if strategy == "steps":
        assert "<th>Icl/accuracy</th>" in tables  # in transformers' table too
    assert "image/png" in shown["plot"][0] and shown["report"][0]["text/plain"] == "True"
    for name in ("summary", "task", "task.bank", "task.sampler()", "callback.history"):
        assert "<table>" in shown[name][0]["text/html"]
    for name, (data, *more) in shown.items():
        if name not in ("setup", "train"):
            assert len(data["text/plain"]) < 2_500 and not more, name


def test_objects_are_written_in_a_line(trained):
    callback, _ = trained
    task = callback.task
    summary = callback.summary()
    batch = task.evaluators["icl"].batch
    evaluators = task.evaluators.values()
    for one in (task, task.bank, task.sampler(), batch, callback.history, summary, *evaluators):
        text = repr(one)
        assert text.startswith(type(one).__name__) and "\n" not in text and len(text) < 600, text
    assert repr(task.bank).startswith(
        "Bank(24 + 4 holdout classes × 4 exemplars, gaussian; vectors of 8, 4 l"
    )
    assert "labels=swapped" in repr(task.evaluators["flip"])
    assert repr(callback.history).endswith("history.jsonl': 5 rows, steps 0 to 12)")
    assert repr(History()) == "History(in memory: 0 rows)"


def test_tables_hold_what_was_measured(trained):
    callback, _ = trained
    row = callback.history.rows[-1]
    table = callback.history._repr_html_()
    assert "<td>12</td>" in table and f"<td>{row['metrics']['icl/accuracy']:.3f}</td>" in table
    assert len(re.findall("<tr>", callback.history.render_html(["icl/accuracy"], n_rows=2))) == 3
    assert f"<td>{callback.summary().verdict}</td>" in callback.summary()._repr_html_()
    assert "<td>iwl</td>" in callback.task._repr_html_()


def read_table(one):
    """Return the cells of what a notebook shows of an object, row by row."""
    rows = re.findall("<tr>(.*?)</tr>", one._repr_html_())
    return [list(map(html.unescape, re.findall("<t[hd]>(.*?)</t[hd]>", row))) for row in rows]


@pytest.mark.parametrize("n_context", [2, 11])
def test_tables_show_the_first_sequences(n_context):
    train = {"n_context": n_context, "burst": 1}
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=20, train=train))
    for evaluator in task.evaluators.values():
        batch = evaluator.batch
        _, *rows = read_table(evaluator)
        assert rows == read_table(batch)[1:] and len(rows) == 5
        for number, (index, context, query, answer) in enumerate(rows):
            places = list(
                zip(batch.class_ids[number].tolist(), batch.exemplar_ids[number].tolist(), strict=True)
            )
            labels = batch.labels[number].tolist()
            written = [f"{one}.{other}" for one, other in places]
            assert (int(index), query, int(answer)) == (int(batch.index[number]), written[-1], labels[-1])
            pairs = [f"{place} → {label}" for place, label in zip(written[:-1], labels[:-1], strict=True)]
            more = [f"… {len(pairs) - 8} more"] if len(pairs) > 8 else []
            assert context == ", ".join(pairs[:8] + more)
        size = f"20 sequences of {len(pairs)} and a query"
        assert repr(batch).startswith(f"SequenceBatch({size}, from number 0 on; seed 0, stream ")
    assert bool(more) == (n_context == 11)


def test_a_samplers_table_has_the_shares_of_its_specs():
    specs = [{"n_context": 2, "burst": 1, "p_bursty": 0.25, "weight": 3}, {"n_context": 2, "burst": 0}]
    sampler = Task(TaskConfig(bank=BANK, n_eval_sequences=20, train=specs)).sampler()
    rows = read_table(sampler)[1:]
    assert rows == [[str(spec), share] for spec, share in zip(sampler.specs, ["0.75", "0.25"], strict=True)]


def test_a_banks_table_names_what_has_names():
    rows = {"text": [f"text {n} <b>" for n in range(24)], "label": [f"kind {n % 4}" for n in range(24)]}
    bank = bank_from_numpy(np.zeros((24, 2), np.float32), rows["label"], n_holdout_classes=1)
    named = dataclasses.replace(bank, exemplar_names=[rows["text"][n::4] for n in range(4)])
    assert "<b>" not in named._repr_html_()
    head, *shown = read_table(named)
    assert head == ["class", "name", "exemplars", "labels", "pool"] and len(shown) == 4
    for number, (class_id, name, exemplars, labels, pool) in enumerate(shown):
        assert (int(class_id), name) == (number, bank.class_names[number])
        own = list(map(repr, rows["text"][number::4]))
        assert exemplars == ", ".join([*own[:4], "… 2 more"])
        is_holdout = number == 3
        assert pool == ("holdout" if is_holdout else "train")
        assert labels == ("none of its own" if is_holdout else str(int(bank.labels[number])))
    assert [row[2] for row in read_table(bank)[1:]] == ["6"] * 4
    assert repr(bank).startswith("Bank(3 + 1 holdout classes") and "\n" not in repr(bank)


def test_names_of_others_make_no_html():
    history = History()
    history.append({"step": 0, "sequences": 0, "metrics": {"<script>/accuracy": 1.0}, "hits": {}})
    assert "<script>" not in history._repr_html_()


@pytest.mark.integration
def test_from_a_stock_trainer_to_figure_summary_and_report(trained, tmp_path):
    callback, folder = trained
    assert callback.plot()._repr_png_().startswith(b"\x89PNG")
    report = callback.report(tmp_path / "report")
    assert report.document["runs"][0]["name"] == folder.name
    assert callback.summary().verdict == report.document["runs"][0]["verdict"]
    assert callback.report(tmp_path / "again", "mine").document["runs"][0]["name"] == "mine"


def test_before_training_there_is_nothing_to_show(task, tmp_path):
    for ask in ("plot", "summary"):
        with pytest.raises(RunError, match="Train first"):
            getattr(TransienceCallback(task), ask)()
    with pytest.raises(RunError, match="Train first"):
        TransienceCallback(task).report(tmp_path / "report")
    assert not (tmp_path / "report").exists()
