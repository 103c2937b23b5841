"""The callback in anyone's `Trainer`: what it counts, and that neither order nor options matter."""

import json
import random

import peft
import pytest
import torch
from datasets import load_dataset
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import hf_icl  # noqa: F401  makes the data set known
from hf_icl.errors import ConfigError
from hf_icl.history.history import History
from hf_icl.models import ICLModel
from hf_icl.runs.config import load_config
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback

COMPILED = [pytest.param(how, marks=pytest.mark.slow) for how in ("passed", "asked for")]  # loads a compiler
BANK = dict(kind="gaussian", n_classes=24, n_holdout_classes=4, n_exemplars=4, dim=8, n_labels=4)


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=20))


def build_model(task):
    set_seed(0)
    backbone = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16)
    return ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context)


class Counted(Trainer):
    """Counts what it trains on itself: the truth."""

    n_seen, too_many, first_step = 0, None, 0

    def training_step(self, model, inputs, *args, **kwargs):
        n = len(inputs["labels"])
        if self.too_many and n >= self.too_many and self.state.global_step >= self.first_step:
            self.n_seen = 0  # training begins anew, with half as many
            raise RuntimeError("CUDA out of memory.")
        self.n_seen += n
        return super().training_step(model, inputs, *args, **kwargs)


def build(
    folder,
    task,
    *,
    n=96,
    kind=Counted,
    model=None,
    callbacks=None,
    eval_dataset=None,
    compute_metrics=None,
    **settings,
):
    defaults = dict(
        per_device_train_batch_size=8, max_steps=12, report_to="none", disable_tqdm=True, use_cpu=True,
        save_strategy="no", logging_steps=50, lr_scheduler_type="constant",
    )  # fmt: skip
    args = TrainingArguments(str(folder), **defaults | settings)
    model = build_model(task) if model is None else model
    data = dict(train_dataset=task.dataset(n), eval_dataset=eval_dataset, data_collator=task.collate)
    return kind(model, args, callbacks=callbacks, compute_metrics=compute_metrics, **data)


def add(trainer, task, **options):
    callback = TransienceCallback(task, **dict(schedule=3, log=trainer.log) | options)
    trainer.add_callback(callback)
    return callback


def counts(folder, name="history.jsonl"):
    return [row["sequences"] for row in History(folder / name).rows]


def test_three_epochs_with_accumulation_and_a_last_part(tmp_path, task):
    """150 = 64 + 64 + 22: two steps an epoch, of 128 and of 22."""
    trainer = build(
        tmp_path, task, n=150, num_train_epochs=3, max_steps=-1, per_device_train_batch_size=64,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    add(trainer, task, schedule=1)
    trainer.train()
    assert trainer.n_seen == 450
    assert counts(tmp_path) == [0, 128, 150, 278, 300, 428, 450]


@pytest.mark.parametrize("seed", range(6))
def test_what_was_trained_on_is_counted_resumed_too(tmp_path, task, seed):
    """Any number of sequences, epochs, batch and parts; stopped at any step, and resumed."""
    rng = random.Random(seed)
    settings = dict(
        n=rng.randint(20, 60), num_train_epochs=rng.randint(2, 3), max_steps=-1,
        per_device_train_batch_size=rng.randint(5, 16), gradient_accumulation_steps=rng.randint(1, 3),
        dataloader_drop_last=rng.random() < 0.3, save_strategy="steps", save_steps=rng.randint(2, 3),
    )  # fmt: skip
    whole = build(tmp_path / "whole", task, **settings)
    add(whole, task, schedule=2)
    whole.train()
    assert counts(tmp_path / "whole")[-1] == whole.n_seen
    checkpoint = tmp_path / f"whole/checkpoint-{settings['save_steps']}"
    again = build(tmp_path / "whole", task, **settings)
    add(again, task, schedule=2)
    before = counts(tmp_path / "whole")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert counts(tmp_path / "whole") == before
    known = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["hf_icl"]
    assert known["attributes"]["sequences"] + again.n_seen == whole.n_seen


def test_a_batch_that_grows_in_mid_training(tmp_path, task):
    sizes = [1, 2, 4, 8, 16, 32]

    class Growing(Counted):
        def get_train_dataloader(self):
            ends = torch.tensor(sizes).cumsum(0).tolist()
            batches = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=batches, collate_fn=task.collate
            )

    trainer = build(tmp_path, task, kind=Growing, max_steps=6)
    add(trainer, task, schedule=1)
    trainer.train()
    assert counts(tmp_path) == [0, 1, 3, 7, 15, 31, 63]


@pytest.mark.parametrize("first_step", [0, 4])
def test_a_batch_that_is_halved_until_it_fits(tmp_path, task, first_step):
    trainer = build(tmp_path, task, max_steps=6, auto_find_batch_size=True)
    trainer.too_many, trainer.first_step = 8, first_step
    add(trainer, task)
    trainer.train()
    size = trainer.state.train_batch_size
    assert size < 8 and trainer.n_seen == 6 * size
    assert counts(tmp_path) == [0, 3 * size, 6 * size]


def test_a_run_keeps_to_the_batch_of_its_config(tmp_path):
    with pytest.raises(ConfigError, match="auto_find_batch_size = True: .*gradient_acc"):
        load_config("default", ["training.arguments.auto_find_batch_size=true"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft calls it
@pytest.mark.parametrize("how", ["parallel", "adapted", *COMPILED])
def test_sequences_are_counted_in_a_model_that_is_wrapped(tmp_path, task, how):
    model, settings = build_model(task), dict(remove_unused_columns=False)
    if how == "passed":
        model = torch.compile(model, backend="eager")
    elif how == "adapted":
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        )
    elif how == "asked for":
        settings |= dict(torch_compile=True, torch_compile_backend="eager")
    else:
        model = torch.nn.DataParallel(model)
    trainer = build(tmp_path, task, model=model, n=30, num_train_epochs=2, max_steps=-1, **settings)
    add(trainer, task, schedule=1)
    trainer.train()
    assert counts(tmp_path) == [0, 8, 16, 24, 30, 38, 46, 54, 60] and trainer.n_seen == 60


def test_a_model_that_is_not_called_as_a_whole_is_counted_by_the_batch_that_is_set(tmp_path, task, caplog):
    class Inside(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model.forward(**inputs).loss

    trainer = build(tmp_path, task, kind=Inside, max_steps=6)
    add(trainer, task)
    trainer.train()
    assert counts(tmp_path) == [0, 24, 48] and caplog.text.count("batch size set") == 1


def test_the_model_is_left_as_it_was(tmp_path, task):
    trainer = build(tmp_path, task, max_steps=2)
    hooks = len(trainer.model._forward_pre_hooks)
    add(trainer, task)
    trainer.train()
    assert len(trainer.model._forward_pre_hooks) == hooks


def test_rows_rebuilt_from_the_log_hold_true_counts(tmp_path, task):
    settings = dict(n=20, num_train_epochs=3, max_steps=-1, save_strategy="steps", save_steps=6)
    trainer = build(tmp_path, task, **settings)
    add(trainer, task, schedule=1)
    trainer.train()
    whole = list(History(tmp_path / "history.jsonl").rows)
    (tmp_path / "history.jsonl").unlink()
    again = build(tmp_path, task, **settings)
    add(again, task, schedule=1)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    rows = list(History(tmp_path / "history.jsonl").rows)
    keys = ("step", "sequences", "metrics")
    assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in whole]


def test_a_stop_before_the_last_step_is_measured(tmp_path, task):
    class Impatient(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    trainer = build(tmp_path, task, callbacks=[Impatient()])
    add(trainer, task)
    trainer.train()
    assert [row["step"] for row in History(tmp_path / "history.jsonl").rows] == [0, 3, 5]


# What a stock trainer does with rows, and with its evaluations


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_load_dataset_train_once_columns_are_kept(tmp_path, task, streaming):
    sizes = {name: BANK[name] for name in BANK if name != "kind"}
    rows = load_dataset("hf_icl", "gaussian", split="train", streaming=streaming, n_sequences=96, **sizes)

    def train(folder, **settings):
        trainer = build(folder, task, train_sampling_strategy="sequential", **settings)
        trainer.train_dataset = rows
        add(trainer, task)
        trainer.train()
        return History(folder / "history.jsonl").rows

    with pytest.raises(ConfigError, match=r"Set TrainingArguments\(remove_unused_columns=False\)"):
        train(tmp_path / "default")
    drawn = build(tmp_path / "drawn", task, train_sampling_strategy="sequential")
    add(drawn, task)
    drawn.train()
    loaded = train(tmp_path / "kept", remove_unused_columns=False)
    assert loaded == History(tmp_path / "drawn/history.jsonl").rows


def test_own_metrics_of_a_stock_evaluation_get_the_query_s_label_alone(tmp_path, task):
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction.label_ids)
        return {"right": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    trainer = build(tmp_path, task, compute_metrics=compute_metrics, eval_dataset=task.dataset(20))
    add(trainer, task)
    metrics = trainer.evaluate()
    expected = task.encode(task.sampler().draw(0, 20))["labels"]
    assert (seen[0] == expected.numpy()).all()
    logits = task.predict(trainer.model, task.sampler().draw(0, 20))
    assert metrics["eval_right"] == pytest.approx((logits.argmax(1) == expected).float().mean().item())


# Neither order nor options matter


@pytest.mark.parametrize("ours", ["before", "after", "last"])
def test_early_stopping_and_the_best_checkpoint_by_icl(tmp_path, task, ours):
    stopping = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=2.0)
    mine = TransienceCallback(task, schedule=3)
    callbacks = {"before": [mine, stopping], "after": [stopping, mine], "last": [stopping]}[ours]
    trainer = build(
        tmp_path, task, callbacks=callbacks, eval_dataset=task.dataset(8), eval_strategy="steps",
        eval_steps=2, save_strategy="steps", save_steps=2, load_best_model_at_end=True,
        metric_for_best_model="icl/accuracy",
    )  # fmt: skip
    if ours == "last":
        trainer.add_callback(mine)
        mine.log = trainer.log
    trainer.train()
    rows = {row["step"]: row["metrics"]["icl/accuracy"] for row in History(tmp_path / "history.jsonl").rows}
    # no accuracy tops another by 2, so the first stays best, and patience ends two evaluations later
    assert trainer.state.global_step == max(rows) == 6
    assert trainer.state.best_global_step == 2 and trainer.state.best_metric == rows[2]
    assert task.measure(trainer.model)[0]["icl/accuracy"] == rows[2]


def test_callback_states_are_restored_from_a_checkpoint(tmp_path, task):
    settings = dict(save_strategy="steps", save_steps=6, train_sampling_strategy="sequential")
    settings |= dict(eval_strategy="steps", eval_steps=6, metric_for_best_model="icl/accuracy")

    def train(resume=None):
        stopping = EarlyStoppingCallback(early_stopping_patience=9)
        trainer = build(tmp_path, task, callbacks=[stopping], eval_dataset=task.dataset(8),
                        restore_callback_states_from_checkpoint=True, **settings)  # fmt: skip
        mine = add(trainer, task)
        trainer.train(resume_from_checkpoint=resume)
        assert mine in trainer.callback_handler.callbacks
        return (tmp_path / "history.jsonl").read_bytes()

    whole = train()
    assert train(str(tmp_path / "checkpoint-6")) == whole


def test_two_tasks_on_one_trainer(tmp_path, task):
    other = Task(TaskConfig(bank=BANK | {"seed": 7}, n_eval_sequences=30))
    settings = dict(save_strategy="steps", save_steps=6, train_sampling_strategy="sequential")
    settings |= dict(eval_strategy="steps", eval_steps=6, metric_for_best_model="letters/icl/accuracy")

    def build_both():
        trainer = build(tmp_path, task, eval_dataset=task.dataset(8), **settings)
        return trainer, add(trainer, task), add(trainer, other, name="letters", schedule=4)

    trainer, plain, named = build_both()
    trainer.train()
    rows = {name: History(tmp_path / name).rows for name in ("history.jsonl", "history-letters.jsonl")}
    assert [[row["step"] for row in each] for each in rows.values()] == [[0, 3, 6, 9, 12], [0, 4, 6, 8, 12]]
    for callback, measured in zip((plain, named), rows.values(), strict=True):
        assert measured[-1]["metrics"] == callback.task.measure(trainer.model)[0]
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"icl/accuracy", "letters/icl/accuracy"} <= logged
    best = {row["step"]: row["metrics"]["icl/accuracy"] for row in rows["history-letters.jsonl"]}
    assert trainer.state.best_metric == max(best[6], best[12])
    assert plain.record("a").n_sequences["icl"] == 20 and named.record("b").n_sequences["icl"] == 30

    whole = {name: list(measured) for name, measured in rows.items()}
    (tmp_path / "history-letters.jsonl").unlink()  # resumed: each finds its own, or rebuilds it
    build_both()[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for name, measured in whole.items():
        again = History(tmp_path / name).rows
        assert [(r["step"], r["sequences"], r["metrics"]) for r in again] == [
            (r["step"], r["sequences"], r["metrics"]) for r in measured
        ]


def test_two_callbacks_of_one_name_are_refused(tmp_path, task):
    trainer = build(tmp_path, task)
    add(trainer, task), add(trainer, task)
    with pytest.raises(ConfigError, match='name = .*: another TransienceCallback .* name="letters"'):
        trainer.train()
    assert len(counts(tmp_path)) == 1  # of the first
    again = build(tmp_path, task)  # what was refused stands in nobody's way
    add(again, task)
    again.train()
    assert counts(tmp_path)[-1] == again.n_seen


@pytest.mark.parametrize("name", ["a/b", "a b", "..", "ä"])
def test_a_name_that_makes_no_file_name_is_refused(task, name):
    with pytest.raises(ConfigError, match="part of a file's name"):
        TransienceCallback(task, name=name)


def test_a_measure_that_no_evaluator_gives_is_refused_before_training(tmp_path, task):
    trainer = build(
        tmp_path, task, eval_dataset=task.dataset(8), eval_strategy="steps", eval_steps=9,
        save_strategy="steps", save_steps=9, metric_for_best_model="icl/acuracy",
    )  # fmt: skip
    add(trainer, task)
    with pytest.raises(
        ConfigError, match="metric_for_best_model = 'icl/acuracy': .* Did you mean icl/accuracy"
    ):
        trainer.train()
    assert trainer.state.global_step == 0
