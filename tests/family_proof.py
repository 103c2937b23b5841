"""Proves what holds for a family of models, and writes the table of families:
python -m tests.family_proof docs/families.md

Each row is earned by training: a stock `Trainer` with the callback, in tokens and in vectors form, on one CPU
thread.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from hf_icl.circuits.attention import Visitor, visit
from hf_icl.errors import ConfigError
from hf_icl.history.history import History
from hf_icl.models import ICLModel
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from tests.families import FAMILIES, WIDTH, tiny_config, tiny_model

N_CONTEXT, VOCABULARY, STEPS = 2, 32, 40
COLUMNS = (
    "family",
    "model_type",
    "parameters",
    "head",
    "tokens",
    "vectors",
    "generate",
    "left padding",
    "right padding",
    "heads",
    "training loss, tokens and vectors",
)


@dataclasses.dataclass
class Row:
    """What was found to hold of a family; a refusal is the sentence that a user gets."""

    family: str
    model_type: str
    parameters: int
    head: str
    tokens: str
    vectors: str
    generate: str = "–"
    left_padding: str = "–"
    right_padding: str = "–"
    heads: str = "–"
    losses: str = ""

    def write(self) -> str:
        """Return the row as Markdown."""
        return "| " + " | ".join(map(str, dataclasses.astuple(self))) + " |"


@functools.cache
def make_task(form: str) -> Task:
    """Return a task that every family learns something of within seconds."""
    bank = {"n_classes": 16, "n_holdout_classes": 4, "n_labels": 4}
    bank |= {"kind": "symbolic"} if form == "tokens" else {"kind": "gaussian", "dim": 8}
    train = {"n_context": N_CONTEXT, "burst": 1}
    return Task(TaskConfig(bank=bank, form=form, train=train, n_eval_sequences=60))


def prove(family: str, folder: Path) -> Row:
    """Train, evaluate, save, reload and probe one family; raises AssertionError where something does not
    hold."""
    model = tiny_model(family, VOCABULARY)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    row = Row(family, FAMILIES[family][0], model.num_parameters(), "tied" if tied else "untied", "yes", "yes")
    losses = []
    try:
        make_task("tokens").check_model(model)
    except ConfigError as error:
        row.tokens = f"no: {error.rule}"
    else:
        losses.append(prove_tokens(model, folder / "tokens"))
        row.generate = probe_generate(model)
        row.left_padding, row.right_padding = probe_padding(model, "left"), probe_padding(model, "right")
    transformers.set_seed(0)
    try:
        vectors = ICLModel.from_backbone(
            tiny_config(family, VOCABULARY), make_task("vectors").bank, n_context=2
        )
    except ConfigError as error:
        row.vectors = f"no: {error.rule}"
    else:
        losses.append(prove_vectors(vectors, folder / "vectors", causal=row.tokens == "yes"))
    row.heads = probe_heads(model)
    row.losses = ", ".join(f"{first:.2f} → {last:.2f}" for first, last in losses)
    return row


def prove_tokens(model: PreTrainedModel, folder: Path) -> tuple[float, float]:
    """Prove the tokens form: nothing wrapped, transformers' own collator."""
    task = make_task("tokens")
    losses = train(model, task, folder)
    reloaded = AutoModelForCausalLM.from_pretrained(folder / "saved")
    check_reload(task, model, reloaded)
    check_answer_is_hidden(task, model)
    return losses


def prove_vectors(model: ICLModel, folder: Path, *, causal: bool) -> tuple[float, float]:
    """Prove the vectors form: the family's body inside an `ICLModel`."""
    task = make_task("vectors")
    losses = train(model, task, folder)
    check_reload(task, model, ICLModel.from_pretrained(folder / "saved"))
    if causal:
        check_gradients(task, model)
    return losses


def train(model: PreTrainedModel, task: Task, folder: Path) -> tuple[float, float]:
    """Train in a stock `Trainer` and return the first and the last loss on fresh training sequences."""
    args = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=16, learning_rate=1e-2, report_to="none",
        disable_tqdm=True, save_strategy="no", use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    collator = {} if task.config.form == "tokens" else {"data_collator": task.collate}
    trainer = Trainer(model, args, train_dataset=task.dataset(STEPS * 16), **collator)
    trainer.add_callback(TransienceCallback(task, schedule=STEPS // 2))
    trainer.train()
    trainer.save_model(str(folder / "saved"))
    rows = History(folder / "history.jsonl").rows
    assert [row["step"] for row in rows] == [0, STEPS // 2, STEPS]
    first, last = (rows[i]["metrics"]["train/loss"] for i in (0, -1))
    assert last < first - 0.1, (first, last)
    return first, last


@torch.no_grad()
def check_reload(task: Task, model: PreTrainedModel, reloaded: PreTrainedModel) -> None:
    """A saved and reloaded model answers with the same bits."""
    batch = task.sampler("icl").draw(0, 20)
    assert torch.equal(task.predict(model.eval(), batch), task.predict(reloaded.eval(), batch))


@torch.no_grad()
def probe_generate(model: PreTrainedModel) -> str:
    """Prove that `generate` on the prompt, which uses the cache,
    gives the logits that evaluators read without one."""
    task = make_task("tokens")
    batch = task.sampler("icl").draw(0, 10)
    prompt, labels = task.encode(batch)["input_ids"][:, :-1], torch.arange(20, 24)
    options = dict(max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True)
    try:
        done = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    except ValueError as error:
        return f"no: its cache is at odds with transformers ({str(error).split(',')[0]})"
    wanted = task.predict(model, batch)
    torch.testing.assert_close(done.logits[0][:, labels], wanted, rtol=1e-4, atol=1e-4)
    return "yes"


@torch.no_grad()
def check_answer_is_hidden(task: Task, model: PreTrainedModel) -> None:
    """Changing a place changes no logits before it, and does change those from it on."""
    ids = task.encode(task.sampler().draw(0, 4))["input_ids"]
    before = model(input_ids=ids, use_cache=False).logits
    for place in range(1, ids.shape[1]):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % VOCABULARY
        after = model(input_ids=other, use_cache=False).logits
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-4, atol=1e-5)
        assert (after[:, place] - before[:, place]).abs().max() > 1e-4


def check_gradients(task: Task, model: ICLModel) -> None:
    """No hidden state has a gradient with respect to a later place, and each has one to its own."""
    inputs = task.encode(task.sampler().draw(0, 2))
    vectors = model.embed(inputs["exemplars"], inputs["context_answers"]).detach().requires_grad_()
    states = model.backbone(inputs_embeds=vectors.clone(), use_cache=False).last_hidden_state
    for place in range(vectors.shape[1]):
        total = states[:, place].square().sum() + states[:, place, 0].sum()
        (gradient,) = torch.autograd.grad(total, vectors, retain_graph=True)
        assert gradient[:, place + 1 :].abs().sum() == 0
        assert gradient[:, place].abs().sum() > 0


@torch.no_grad()
def probe_padding(model: PreTrainedModel, side: str) -> str:
    """Say whether a padded prompt gets the same answer: as is, with `position_ids` that count from the text,
    or not."""
    task = make_task("tokens")
    batch = task.sampler("icl").draw(0, 10)
    rows, wanted = task.encode(batch), task.predict(model.eval(), batch)
    pad = torch.zeros(10, 3, dtype=torch.int64)

    def join(values: torch.Tensor, filler: int) -> torch.Tensor:
        parts = [pad + filler, values]
        return torch.cat(parts if side == "left" else parts[::-1], dim=1)

    labels, mask = join(rows["labels"], -100), join(torch.ones_like(rows["labels"]), 0)
    inputs = {"input_ids": join(rows["input_ids"], 0), "attention_mask": mask, "use_cache": False}
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    for word, more in (("yes", {}), ("with position_ids", positions)):
        try:
            logits = model(**inputs, **more).logits
        except TypeError:
            continue
        answers = task.form.read_logits(task.bank, logits, labels)
        if torch.allclose(answers, wanted, rtol=1e-3, atol=1e-4):
            return word
    return "no"


@torch.no_grad()
def probe_heads(model: PreTrainedModel) -> str:
    """Say how far a model lets its heads be looked into: in all, patterns and outputs, patterns, or not."""
    ids = torch.arange(2, 9)[None]

    class Looker(Visitor):
        """Sees patterns, and changes nothing."""

    class Changer(Visitor):
        def take_output(self, layer, output):
            return output * 1

    class Putter(Changer):
        needs_parts = True

    found, wanted = "", model.eval()(input_ids=ids, use_cache=False).logits
    for word, visitor in (("patterns", Looker()), ("patterns, ablation", Changer()), ("yes", Putter())):
        try:
            with visit(model, visitor):
                logits = model(input_ids=ids, use_cache=False).logits
        except ConfigError as error:
            return found or f"no: {error.rule.split(',')[0]}"
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
        found = word
    return found


def write_table(rows: list[Row]) -> str:
    """Return docs/families.md."""
    done = sum(row.tokens == row.vectors == "yes" for row in rows)
    lines = [row.write() for row in rows]
    return "\n".join([INTRODUCTION.format(done=done, all=len(rows), versions=_versions()), *lines, ""])


def _versions() -> str:
    return f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


INTRODUCTION = f"""# Families

{{done}} of {{all}} families of transformers work in both forms. Written by `python -m tests.family_proof docs/families.md`, which
is also what the tests check: each row is a tiny random model of 2 layers × {WIDTH} that trains {STEPS} steps in a stock
`Trainer` with the callback on, and must see its loss fall, be evaluated, saved and reloaded to the same bits. No place may see
a later one: in tokens form every later token is changed, in vectors form gradients are taken.

- *tokens*: a plain `AutoModelForCausalLM` and transformers' own collator, nothing wrapped.
- *head*: whether the map to logits is the table of token embeddings (tied) or weights of its own.
- *vectors*: the family's body inside an `ICLModel`, fed through `inputs_embeds`.
- *generate*: `model.generate` on the prompt, which uses the model's cache, gives the logits that evaluators read without one.
- *padding*: whether a padded prompt with its attention mask gets the same answer. Models with absolute positions need, on
  the left, `position_ids` that count from the first token; `generate` passes them by itself. Recurrent models without a mask
  cannot be padded on the left. Sequences of a task are all of one length, so nothing is padded unless you do it.
- *heads*: whether attention heads can be looked into ([circuits.md](circuits.md)). *yes*: patterns, ablations, and queries, keys,
  values or patterns of later layers kept; else what of it there is.

How many devices train makes no difference to a family: [devices.md](devices.md). What one will cost: [scaling.md](scaling.md).

Where a cell says no, it gives the sentence that a user gets. {{versions}}, CPU, one thread, seed 0.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        table = []
        for name in FAMILIES:
            transformers.set_seed(0)
            table.append(prove(name, Path(scratch) / name))
            print(table[-1].write(), flush=True)
    Path(sys.argv[1]).write_text(write_table(table))
