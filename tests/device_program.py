"""What one process of a training does, with all it saw written down:
`torchrun … tests/device_program.py FOLDER`.

The tests call `train_all` in their own process too: that is the training on one process.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, Trainer, TrainingArguments, set_seed

from hf_icl.distributed import count_processes, leave, map_spread, on_main
from hf_icl.errors import ConfigError
from hf_icl.models import ICLModel
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from hf_icl.training.trainer import Regularization, TransienceTrainer

BANK = {
    "kind": "gaussian", "n_classes": 24, "n_holdout_classes": 4, "n_exemplars": 8, "dim": 8, "n_labels": 4,
}  # fmt: skip
BATCH, STEPS = 16, 6
L2 = Regularization(kind="l2", strength=0.05)
# name: kind of trainer, accumulated parts, regularisation, further arguments
TRAININGS = {
    "thin": ("thin", 1, None, {}),
    "l2": ("thin", 1, L2, {}),
    "accumulated": ("thin", 2, L2, {"max_grad_norm": 0.1}),
    "own_tokens": ("thin", 2, None, {"average_tokens_across_devices": False}),
    "stock": ("stock", 1, None, {}),
    "stock_each_reads": ("stock", 2, None, {"accelerator_config": {"dispatch_batches": False}}),
}
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "accelerator_config": {"even_batches": False}}


class Recorder:
    """Mixed into a `Trainer`: writes down which sequences this process trains on."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append([self.numbers[name_of(row)] for row in inputs["exemplars"]])
        return super().training_step(model, inputs, *args, **kwargs)


class Stock(Recorder, Trainer):
    pass


class Thin(Recorder, TransienceTrainer):
    pass


def name_of(row):
    return row.numpy().tobytes()


def build_model(task):
    set_seed(0)
    backbone = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context)


def build_trainer(folder, task, name, model=None, train_dataset=None, **more):
    kind, n_parts, regularization, settings = TRAININGS[name]
    defaults = dict(
        output_dir=str(folder / name),
        max_steps=STEPS,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,
        per_device_train_batch_size=BATCH // n_parts // count_processes(),
        gradient_accumulation_steps=n_parts,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        lr_scheduler_type="constant",
        ddp_find_unused_parameters=False,
    )
    args = TrainingArguments(**defaults | settings | more)
    model = model or build_model(task)
    if kind == "thin":
        trainer = Thin(model, args, task, schedule=3, regularization=regularization)
    else:
        rows = task.stream() if train_dataset is None else train_dataset
        data = {"train_dataset": rows, "eval_dataset": task.dataset(8)}
        trainer = Stock(model, args, data_collator=task.collate, **data)
        trainer.add_callback(TransienceCallback(task, schedule=3, log=trainer.log))
    every = task.encode(task.sampler().draw(0, 2 * BATCH * STEPS))["exemplars"]
    trainer.numbers = {name_of(row): number for number, row in enumerate(every)}
    assert len(trainer.numbers) == len(every)
    trainer.seen = []
    return trainer


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def describe(trainer):
    """Return what this process saw and ended with."""
    history = [
        h for callback in trainer.callback_handler.callbacks if (h := getattr(callback, "history", None))
    ]
    return {
        "seen": trainer.seen,
        "losses": losses_of(trainer),
        "rows": list(history[0].rows),
        "wrote": history[0].path is not None,
        "best": trainer.state.best_metric,
        "weights": torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).tolist(),
    }


def train_all(folder):
    """Return, by name of training, what this process saw."""
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    results = {}
    for name in TRAININGS:
        best = dict(
            save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
            metric_for_best_model="icl/accuracy",
        )  # fmt: skip
        trainer = build_trainer(folder, task, name, **(best if name in ("thin", "stock") else {}))
        trainer.train()
        results[name] = describe(trainer)
    model = trainer.model
    means, hits = task.measure(model, batch_size=7, spread=True)
    alone, alone_hits = task.measure(model, batch_size=7)
    results["epochs"] = train_epochs(folder)
    results["spread_equals_alone"] = means == alone and all(torch.equal(hits[n], alone_hits[n]) for n in hits)
    results["spread"] = [map_spread(lambda job: job * 10, n_jobs) for n_jobs in (1, 2, 5)]
    return results


def train_epochs(folder):
    """Return what this process saw in two epochs of 62 sequences, which are no whole number of batches."""
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    settings = EPOCHS | {"output_dir": str(folder / "epochs")}
    trainer = build_trainer(folder, task, "stock", train_dataset=task.dataset(62), **settings)
    trainer.train()
    rows = describe(trainer)["rows"]
    return {"seen": sum(map(len, trainer.seen)), "counts": [row["sequences"] for row in rows]}


def train_sharded(folder):
    """Return the same for a model whose weights are dealt out to the processes (FSDP2), and save it."""
    from transformers.distributed import DistributedConfig

    plan = {"backbone.h.*": "free_full_weight"}
    try:
        sharding = DistributedConfig(fsdp_size=count_processes(), fsdp_plan=plan)
    except TypeError as error:
        return {"missing": f"transformers {transformers.__version__} has no FSDP of its own: {error}"}
    task = Task(TaskConfig(bank=BANK, n_eval_sequences=40))
    on_main(lambda: build_model(task).save_pretrained(folder / "start"))
    model = ICLModel.from_pretrained(folder / "start", distributed_config=sharding)
    saving = dict(
        save_strategy="steps", save_steps=STEPS, save_only_model=True, output_dir=str(folder / "fsdp")
    )
    trainer = build_trainer(folder, task, "l2", model, **saving)
    trainer.train()
    kinds = {type(p).__name__ for p in model.parameters()}
    return {
        "losses": losses_of(trainer),
        "rows": list(trainer.transience.history.rows),
        "kinds": sorted(kinds),
    }


def main():
    folder = Path(sys.argv[1])
    refused = None  # without use_cpu, a machine without a GPU gives every process a world of its own
    args = TrainingArguments(str(folder), max_steps=1, report_to="none")
    if args.world_size == 1:
        try:
            TransienceTrainer(None, args, None)
            refused = "not refused"
        except ConfigError as error:
            refused = str(error)
    TrainingArguments(str(folder), use_cpu=True).device  # noqa: B018  meets the other processes
    results = train_all(folder) | {"refused": refused, "fsdp": train_sharded(folder)}
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main()
