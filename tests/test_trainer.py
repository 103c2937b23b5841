"""The thin Trainer and the callback, with a real `transformers.Trainer` underneath."""

import json

import pytest
import torch
from transformers import GPT2Config, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_icl.errors import ConfigError
from hf_icl.history.history import History
from hf_icl.models import ICLModel, parameter_groups
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from hf_icl.training.trainer import Regularization, TransienceTrainer

BANK = {
    "kind": "gaussian",
    "n_classes": 24,
    "n_holdout_classes": 4,
    "n_exemplars": 4,
    "dim": 8,
    "n_labels": 4,
}


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=40))


def build_model(task, **settings):
    set_seed(0)
    backbone = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context, **settings)


def arguments(folder, **settings):
    defaults = dict(
        max_steps=12, per_device_train_batch_size=8, learning_rate=1e-2, lr_scheduler_type="constant",
        report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, logging_steps=4,
    )  # fmt: skip
    return TrainingArguments(str(folder), **defaults | settings)


def train(folder, task, regularization=None, schedule=4, callbacks=None, **settings):
    trainer = TransienceTrainer(
        build_model(task),
        arguments(folder, **settings),
        task,
        schedule=schedule,
        regularization=regularization,
        callbacks=callbacks,
    )
    trainer.train()
    return trainer


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_rows_reach_history_log_and_file(tmp_path, task):
    trainer = train(tmp_path, task)
    rows = History(tmp_path / "history.jsonl").rows
    assert [row["step"] for row in rows] == [0, 4, 8, 12] and [row["sequences"] for row in rows] == [
        0,
        32,
        64,
        96,
    ]
    logged = {
        entry["step"]: entry["icl/accuracy"] for entry in trainer.state.log_history if "icl/accuracy" in entry
    }
    assert logged == {row["step"]: row["metrics"]["icl/accuracy"] for row in rows}
    assert rows[-1]["metrics"]["train/loss"] < rows[0]["metrics"]["train/loss"]


class Reporter(TrainerCallback):
    """Stands where TensorBoard's callback stands: before the user's callbacks."""

    seen: list = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


@pytest.mark.integration
def test_a_stock_trainer_measures_the_same_and_reporters_hear_it(tmp_path, task):
    Reporter.seen = []
    args = arguments(tmp_path / "stock", train_sampling_strategy="sequential")
    stock = Trainer(
        build_model(task),
        args,
        train_dataset=task.dataset(96),
        data_collator=task.collate,
        callbacks=[Reporter],
    )
    stock.add_callback(TransienceCallback(task, schedule=4, log=stock.log))
    stock.train()
    thin = train(tmp_path / "thin", task)
    ours, theirs = (
        History(tmp_path / "thin/history.jsonl").rows,
        History(tmp_path / "stock/history.jsonl").rows,
    )
    assert ours == theirs  # same sequences in the same order, so the same numbers
    assert sum("icl/accuracy" in logs for logs in Reporter.seen) == 4
    for name, value in weights(thin.model).items():
        assert torch.equal(value, dict(stock.model.named_parameters())[name]), name


def test_without_a_log_function_values_still_reach_the_state(tmp_path, task):
    callback = TransienceCallback(task, schedule=6)
    trainer = Trainer(
        build_model(task),
        arguments(tmp_path),
        train_dataset=task.dataset(96),
        data_collator=task.collate,
        callbacks=[callback],
    )
    trainer.train()
    assert [e["step"] for e in trainer.state.log_history if "flip/context_accuracy" in e] == [0, 6, 12]


def test_measuring_changes_nothing(tmp_path, task):
    often, never = train(tmp_path / "a", task, schedule=1), train(tmp_path / "b", task, schedule=100)
    for name, value in weights(often.model).items():
        assert torch.equal(value, dict(never.model.named_parameters())[name]), name
    assert often.model.training == never.model.training


def test_the_best_checkpoint_is_where_icl_peaks(tmp_path, task):
    trainer = train(
        tmp_path, task, schedule=2, max_steps=20, save_strategy="steps", save_steps=2, save_total_limit=2,
        eval_strategy="steps", eval_steps=2, metric_for_best_model="icl/accuracy",
    )  # fmt: skip
    values = {
        row["step"]: row["metrics"]["icl/accuracy"] for row in trainer.transience.history.rows if row["step"]
    }
    assert trainer.state.best_metric == max(values.values())
    assert values[trainer.state.best_global_step] == trainer.state.best_metric
    kept = ICLModel.from_pretrained(tmp_path / f"checkpoint-{trainer.state.best_global_step}")
    assert task.measure(kept)[0]["icl/accuracy"] == trainer.state.best_metric


@pytest.mark.integration
def test_a_stock_trainer_keeps_the_best_icl_too(tmp_path, task):
    args = arguments(
        tmp_path, save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=4,
        metric_for_best_model="icl/accuracy",
    )  # fmt: skip
    data = task.dataset(96)
    trainer = Trainer(
        build_model(task), args, train_dataset=data, eval_dataset=data, data_collator=task.collate
    )
    trainer.add_callback(TransienceCallback(task, schedule=3))
    trainer.train()
    rows = {row["step"]: row["metrics"]["icl/accuracy"] for row in History(tmp_path / "history.jsonl").rows}
    assert trainer.state.best_metric == max(rows[step] for step in (4, 8, 12))


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["thin", "stock"])
def test_evaluating_before_and_after_training_measures_this_model_and_records_nothing(tmp_path, task, kind):
    """Before the first step, and with the best weights loaded after the last:
    always of the weights as they are."""
    args = arguments(
        tmp_path, max_steps=20, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        metric_for_best_model="icl/accuracy", load_best_model_at_end=True,
    )  # fmt: skip
    if kind == "thin":
        trainer = TransienceTrainer(build_model(task), args, task, schedule=2)
    else:
        data = {"train_dataset": task.dataset(160), "eval_dataset": task.dataset(8)}
        trainer = Trainer(build_model(task), args, data_collator=task.collate, **data)
        trainer.add_callback(TransienceCallback(task, schedule=2))

    looked_at = {evaluator.primary for evaluator in task.evaluators.values()} | {"train/loss"}

    def measured():
        means = task.measure(trainer.model)[0]
        return {f"eval_{name}": means[name] for name in (means if kind == "thin" else looked_at)}

    def evaluated():
        return {name: value for name, value in trainer.evaluate().items() if "/" in name}

    assert evaluated() == measured() and not (tmp_path / "history.jsonl").exists()
    trainer.train()
    rows = (tmp_path / "history.jsonl").read_bytes()
    assert trainer.state.best_global_step < 20  # so the weights are not those of the last row
    assert evaluated() == measured()
    assert (tmp_path / "history.jsonl").read_bytes() == rows and not (tmp_path / "history.1.jsonl").exists()
    assert [row["step"] for row in History(tmp_path / "history.jsonl").rows] == list(range(0, 21, 2))


@pytest.mark.integration
@pytest.mark.parametrize("strategy", ["thin", "stock"])
def test_resuming_gives_the_same_history_and_weights(tmp_path, task, strategy):
    settings = dict(save_strategy="steps", save_steps=5, train_sampling_strategy="sequential")

    def build(folder):
        if strategy == "thin":
            return TransienceTrainer(build_model(task), arguments(folder, **settings), task, schedule=3)
        trainer = Trainer(
            build_model(task),
            arguments(folder, **settings),
            train_dataset=task.dataset(96),
            data_collator=task.collate,
        )
        trainer.add_callback(TransienceCallback(task, schedule=3, log=trainer.log))
        return trainer

    whole = build(tmp_path / "whole")
    whole.train()
    first = build(tmp_path / "parts")
    first.args.max_steps = 8
    first.train()
    second = build(tmp_path / "parts")
    second.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-5"))
    assert (tmp_path / "parts/history.jsonl").read_bytes() == (tmp_path / "whole/history.jsonl").read_bytes()
    for name, value in weights(second.model).items():
        assert torch.equal(value, dict(whole.model.named_parameters())[name]), name


@pytest.mark.integration
def test_a_lost_history_is_rebuilt_from_the_checkpoint_and_said(tmp_path, task, caplog):
    settings = dict(save_strategy="steps", save_steps=6)
    train(tmp_path, task, schedule=3, **settings)
    whole = list(History(tmp_path / "history.jsonl").rows)
    (tmp_path / "history.jsonl").unlink()
    trainer = TransienceTrainer(build_model(task), arguments(tmp_path, **settings), task, schedule=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    rows = History(tmp_path / "history.jsonl").rows
    keys = ("step", "sequences", "metrics")
    assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in whole]
    assert [(row["step"], row["metrics"]) for row in rows] == [(row["step"], row["metrics"]) for row in whole]
    assert (
        "rebuilt from the trainer's log" in caplog.text and rows[0]["hits"] == {} and rows[-1]["hits"] != {}
    )


@pytest.mark.integration
def test_a_new_run_in_a_used_folder_sets_the_old_history_aside(tmp_path, task):
    train(tmp_path, task)
    old = (tmp_path / "history.jsonl").read_bytes()
    train(tmp_path, task)
    assert (tmp_path / "history.1.jsonl").read_bytes() == old


@pytest.mark.integration
def test_training_twice_with_one_trainer_keeps_the_first_history(tmp_path, task):
    trainer = train(tmp_path, task)
    first = (tmp_path / "history.jsonl").read_bytes()
    trainer.train()
    assert (tmp_path / "history.1.jsonl").read_bytes() == first
    assert [row["step"] for row in History(tmp_path / "history.jsonl").rows] == [0, 4, 8, 12]


def test_l2_adds_the_sum_of_squares_to_the_loss(tmp_path, task):
    strength = 0.25
    trainer = TransienceTrainer(
        build_model(task),
        arguments(tmp_path),
        task,
        regularization=Regularization(kind="l2", strength=strength),
    )
    inputs = task.encode(task.sampler().draw(0, 8))
    plain = trainer.model(**inputs).loss
    total = sum(
        float(p.detach().double().square().sum()) for p in trainer.model.parameters() if p.requires_grad
    )
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(
        plain.item() + strength * total, rel=1e-5
    )


@pytest.fixture(scope="module", params=["l2", "decay"])
def one_step(request, task, tmp_path_factory):
    """Return the kind, a function that trains one step, and the weights after one step without
    regularisation."""
    settings = dict(max_steps=1, max_grad_norm=0.0, weight_decay=0.0, optim="sgd")
    if request.param == "decay":
        settings |= dict(weight_decay=1.0, optim="adamw_torch")
    folder = tmp_path_factory.mktemp(request.param)

    def step(regularization=None):
        return weights(train(folder, task, regularization, **settings).model)

    return request.param, step, step()


@pytest.mark.integration
@pytest.mark.parametrize("group", ["mlp", "attention", "embeddings", "encoder", "head"])
def test_a_named_group_alone_is_regularised(task, one_step, group):
    """One step with and without: only the weights of the group may move differently."""
    kind, step, without = one_step
    with_it = step(Regularization(kind=kind, strength=1.0, groups=(group,)))
    moved = {name for name, value in with_it.items() if not torch.equal(value, without[name])}
    frozen = {
        name for name, p in build_model(task).named_parameters() if not p.requires_grad or not p.abs().sum()
    }
    assert moved == set(parameter_groups(build_model(task))[group]) - frozen


def test_a_group_that_the_model_lacks_is_refused(tmp_path, task):
    from hf_icl.models import CausalTransformerConfig

    attention_only = CausalTransformerConfig(n_layers=1, d_model=16, n_heads=2, mlp_ratio=0, max_places=16)
    model = ICLModel.from_backbone(attention_only, task.bank, n_context=4)
    with pytest.raises(ConfigError, match="no such parameters"):
        TransienceTrainer(
            model,
            arguments(tmp_path),
            task,
            regularization=Regularization(kind="l2", strength=1e-4, groups=("mlp",)),
        )


@pytest.mark.parametrize("fields", [{"kind": "l2"}, {"strength": 0.1}, {"kind": "l2", "strength": -1}])
def test_contradictory_regularisation_is_refused(fields):
    with pytest.raises(ConfigError):
        Regularization(**fields)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["l2", "decay"])
def test_regularisation_of_strength_0_is_none_to_the_last_bit(tmp_path, task, kind):
    none, zero = (
        weights(train(tmp_path / str(number), task, regularization).model)
        for number, regularization in enumerate([None, Regularization(kind=kind, strength=0)])
    )
    assert all(torch.equal(none[name], zero[name]) for name in none)


@pytest.mark.integration
@pytest.mark.parametrize("l2", [None, Regularization(kind="l2", strength=0.1)])
def test_accumulated_batches_are_the_same_step(tmp_path, task, l2):
    one = train(tmp_path / "a", task, l2, per_device_train_batch_size=8, optim="sgd")
    two = train(
        tmp_path / "b", task, l2, per_device_train_batch_size=4, gradient_accumulation_steps=2, optim="sgd"
    )
    for name, value in weights(one.model).items():
        assert torch.allclose(value, dict(two.model.named_parameters())[name], atol=1e-5), name
    rows = [History(tmp_path / folder / "history.jsonl").rows for folder in "ab"]
    assert [r["sequences"] for r in rows[0]] == [r["sequences"] for r in rows[1]]


@pytest.mark.integration
def test_inverse_square_root_schedule(tmp_path, task):
    settings = dict(lr_scheduler_type="inverse_sqrt", warmup_steps=4, logging_steps=1, max_steps=16)
    trainer = train(tmp_path, task, **settings)
    rates = {e["step"]: e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e}
    assert rates[1] == 0.0 and rates[5] == pytest.approx(
        1e-2
    )  # rates are logged as they were before each step
    assert rates[13] / rates[5] == pytest.approx((4 / 12) ** 0.5)


def test_sequences_without_end_need_a_number_of_steps(tmp_path, task):
    with pytest.raises(ConfigError, match="max_steps"):
        TransienceTrainer(build_model(task), arguments(tmp_path, max_steps=-1), task)


@pytest.mark.integration
def test_the_checkpoint_says_how_many_rows_it_knows(tmp_path, task):
    train(tmp_path, task, schedule=3, save_strategy="steps", save_steps=6)
    state = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())
    assert state["stateful_callbacks"]["hf_icl"]["attributes"]["n_rows"] == 3


def test_a_head_with_too_few_labels_is_refused_before_training(tmp_path, task):
    model = build_model(task, n_labels=3)
    with pytest.raises(ConfigError, match="n_labels = 3: the head has fewer labels than the 4"):
        TransienceTrainer(model, arguments(tmp_path), task)
    stock = Trainer(model, arguments(tmp_path), train_dataset=task.dataset(96), data_collator=task.collate)
    stock.add_callback(TransienceCallback(task))
    with pytest.raises(ConfigError, match="n_labels = 3"):
        stock.train()
