"""What is done to a model while it learns: it is done, at the steps that were said, and resumes to the
bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_icl.circuits import Ablation, Visitor, lay_out, measure_effects, visit
from hf_icl.errors import ConfigError
from hf_icl.models import CausalTransformerConfig, ICLModel
from hf_icl.models.groups import find_parameters, parameter_groups
from hf_icl.runs import Run, load_config, train_replicas
from hf_icl.task.config import TaskConfig
from hf_icl.task.forms import count_tokens
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from hf_icl.training.checkpoints import mark_whole
from hf_icl.training.compiled.trainer import train_together
from hf_icl.training.interventions import (
    Ablate,
    Clamp,
    Forbid,
    Freeze,
    Graft,
    InterventionCallback,
    Regularize,
    Reset,
    Stop,
    Temperature,
    Trigger,
)
from hf_icl.training.interventions.attention import aim_at_label
from hf_icl.training.interventions.base import Watch
from hf_icl.training.interventions.kinds import KINDS
from hf_icl.training.interventions.weights import draw_fresh
from hf_icl.training.regularization import Regularization
from hf_icl.training.trainer import TransienceTrainer
from tests.programs import TINY

BANK = {"kind": "gaussian", "n_classes": 24, "n_holdout_classes": 4, "dim": 8, "n_labels": 4}
SHAPE = {"n_layers": 2, "d_model": 16, "n_heads": 2}
STEPS, HALF = 8, 4


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=BANK, n_eval_sequences=30, evaluators=("icl", "flip", "train")))


def build(task, backbone=None, **settings):
    set_seed(0)
    backbone = backbone or CausalTransformerConfig(**SHAPE)
    settings = {"places": "interleaved"} | settings
    return ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context, **settings)


def arguments(folder, **settings):
    defaults = dict(
        max_steps=STEPS, per_device_train_batch_size=8, learning_rate=1e-2, lr_scheduler_type="constant",
        report_to="none", disable_tqdm=True, save_strategy="steps", save_steps=HALF, use_cpu=True,
        weight_decay=0.0, max_grad_norm=0.0, logging_steps=HALF,
        adam_epsilon=1e-3,  # keys' offsets have no gradient but rounding, which a smaller one would blow up
    )  # fmt: skip
    return TrainingArguments(str(folder), **defaults | settings)


def make(folder, task, interventions=(), model=None, schedule=2, callbacks=None, regularization=None, **more):
    return TransienceTrainer(
        model or build(task), arguments(folder, **more), task, schedule=schedule, interventions=interventions,
        callbacks=callbacks, regularization=regularization,
    )  # fmt: skip


def read(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Watcher(TrainerCallback):
    """Keeps the weights after every step, as they are measured and saved."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen[state.global_step] = read(model)


@pytest.fixture(scope="module")
def plain(task, tmp_path_factory):
    """The last weights of a training that nothing is done to."""
    trainer = make(tmp_path_factory.mktemp("plain"), task)
    trainer.train()
    return read(trainer.model)


def train(folder, task, interventions, **more):
    watcher = Watcher()
    trainer = make(folder, task, interventions, callbacks=[watcher], **more)
    start = read(trainer.model)
    trainer.train()
    return trainer, {0: start} | watcher.seen


# When


def test_a_trigger_finds_the_first_fall_from_the_highest_value_so_far():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(0, 10, size=12) / 10
        log = [{"step": 5 * n, "a/b": float(value), "loss": 9.0} for n, value in enumerate(values)]
        start, by = int(rng.integers(0, 30)), float(rng.integers(1, 8) / 10)
        watch, found = Watch(start, Trigger(metric="a/b", falls_by=by)), None
        for length in range(len(log) + 1):  # it is read as it grows
            found = watch.find(log[:length])
        falls = [n for n in range(12) if 5 * n >= start and values[n] <= values[: n + 1].max() - by]
        assert found == (5 * falls[0] if falls else None)


@pytest.mark.integration
def test_a_rescue_begins_after_the_step_at_which_the_measure_has_fallen(tmp_path, task, caplog):
    rescue = Freeze(when=Trigger(metric="train/loss", falls_by=1e-3))
    trainer, seen = train(tmp_path, task, [rescue])
    losses = {row["step"]: row["metrics"]["train/loss"] for row in trainer.transience.history.rows}
    began = min(step for step in losses if losses[step] <= max(losses[s] for s in losses if s <= step) - 1e-3)
    assert 0 < began < STEPS
    assert not is_same(seen[began - 1], seen[began]) and is_same(seen[began], seen[STEPS])
    assert f"Step {began}: train/loss has fallen by 0.001 from its peak: Freeze begins" in caplog.text


@pytest.mark.parametrize(
    "wrong, told",
    [
        (dict(kind="freeze", start=5, stop=5), "interventions.0.stop = 5: must come after start = 5."),
        (dict(kind="early_stop"), "stopping needs a measure to wait for"),
        (dict(kind="ablate", heads=["1.2"]), "interventions.0.heads = '1.2': must name a head as L0H3"),
        (dict(kind="clamp", heads=["L0"], pattern="induction", strength=1.5), "interventions.0.strength"),
        (dict(kind="graft", source="a", follow=True, when={"falls_by": 0.1}), "nothing to wait for"),
    ],
)
def test_bad_settings_are_named(wrong, told):
    with pytest.raises(ConfigError) as error:
        load_config("default", {"training.interventions": [wrong]})
    assert told in str(error.value)


NEEDED = {
    "ablate": {"heads": ["L0"]},
    "clamp": {"heads": ["L0"], "pattern": "induction"},
    "forbid": {"heads": ["L0"], "pattern": "induction"},
    "temperature": {"heads": ["L0"], "value": 2.0},
    "graft": {"source": "a"},
    "regularize": {"by": "l2", "strength": 0.1},
    "early_stop": {"when": {"falls_by": 0.1}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_just_outside_their_bounds_are_refused_by_name(kind):
    n_tried = 0
    for name, field in KINDS[kind].model_fields.items():
        for rule in field.metadata:
            for sort, outside in (("ge", -1), ("le", 1), ("gt", 0), ("lt", 0)):
                if (limit := getattr(rule, sort, None)) is not None:
                    value = limit + outside * max(1, abs(limit) // 1000)
                    wrong = {"kind": kind} | NEEDED.get(kind, {}) | {name: value}
                    with pytest.raises(ConfigError, match=rf"interventions.0.{name} = .* should be"):
                        load_config("default", {"training.interventions": [wrong]})
                    n_tried += 1
    assert n_tried >= 4


@pytest.mark.parametrize(
    "wrong, told",
    [
        (dict(kind="freeze", layers=[7]), "training.interventions.0.layers = 7"),
        (dict(kind="freeze", groups=["encoder"], layers=[0]), None),
        (dict(kind="ablate", heads=["L5"]), "training.interventions.0.heads = 'L5': the model has no such"),
        (dict(kind="clamp", heads=["L0"], pattern="previous_token"), "share a place here"),
        (
            dict(kind="early_stop", when={"metric": "icll/accuracy", "falls_by": 0.1}),
            "is no measure of this task",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_a_run_begins(tmp_path, wrong, told):
    config = load_config("default", [*TINY, f"training.interventions=[{json.dumps(wrong)}]"])
    with pytest.raises(ConfigError) as error:
        Run.create(config, tmp_path / "run")
    assert (told or "groups") in str(error.value) or "layers" in str(error.value)
    assert not (tmp_path / "run").exists()


# Weights


@pytest.mark.integration
def test_frozen_weights_stay_to_the_bit_while_others_learn(tmp_path, task):
    freeze = Freeze(layers=[0], groups=["attention", "mlp"], start=2, stop=6)
    decay = Regularization(kind="decay", strength=0.1)
    trainer, seen = train(tmp_path, task, [freeze], regularization=decay)
    held = find_parameters(trainer.model, ["attention", "mlp"], [0])
    assert held and all("blocks.0." in name for name in held)
    for name in seen[0]:
        still = [torch.equal(seen[step - 1][name], seen[step][name]) for step in range(1, STEPS + 1)]
        assert still == [name in held and 2 < step <= 6 for step in range(1, STEPS + 1)], name


@pytest.mark.integration
def test_a_graft_is_the_others_weights_from_then_on(tmp_path, task):
    donor = build(task, label_init_std=3.0)
    donor.save_pretrained(tmp_path / "donor")
    mark_whole(tmp_path / "donor", (tmp_path / "donor").glob("*"))
    graft = dict(source=str(tmp_path / "donor"), groups=["embeddings"], start=3)
    held, seen = train(tmp_path / "a", task, [Graft(**graft), Freeze(groups=["embeddings"], start=3)])
    name = "label_embedding.weight"
    assert torch.equal(seen[STEPS][name], donor.label_embedding.weight)
    assert torch.equal(seen[4][name], seen[STEPS][name]) and not torch.equal(seen[2][name], seen[4][name])
    _, free = train(tmp_path / "b", task, [Graft(**graft)])
    assert 0 < (free[4][name] - donor.label_embedding.weight).abs().max() < 0.02  # one step from there
    other = ICLModel.from_backbone(CausalTransformerConfig(n_layers=2, d_model=8, n_heads=2), task.bank)
    other.save_pretrained(tmp_path / "other")
    mark_whole(tmp_path / "other", (tmp_path / "other").glob("*"))
    with pytest.raises(ConfigError, match=r"interventions.0.source = .* \(4, 8\), and \(4, 16\) here"):
        make(tmp_path / "c", task, [Graft(source=str(tmp_path / "other"), groups=["embeddings"])]).train()


@pytest.mark.integration
def test_following_takes_the_newest_checkpoint_up_to_each_step(tmp_path, task):
    _, other = train(tmp_path / "other", task, [], model=build(task, label_init_std=2.0), save_steps=3)
    follow = Graft(source=str(tmp_path / "other"), groups=["head"], follow=True)
    _, seen = train(tmp_path / "mine", task, [follow])
    for step in range(1, STEPS + 1):
        newest = (step - 1) // 3 * 3  # up to the step before, as the step begins then
        is_held = torch.equal(seen[step]["head.weight"], other[newest]["head.weight"])
        assert is_held == (newest > 0), step


@pytest.mark.integration
def test_a_reset_draws_fresh_weights_and_forgets_their_moments(tmp_path, task):
    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            moments = optimizer.state[model.label_embedding.weight]
            looks[state.global_step] = moments["exp_avg"].abs().sum().item() if moments else None

    looks = {}
    reset = Reset(groups=["embeddings"], every=3, stop=7)
    trainer = make(tmp_path, task, [reset], callbacks=[Look()])
    before = read(trainer.model)
    trainer.train()
    assert [step for step, moment in looks.items() if moment == 0] == [3, 6]
    one, other = (draw_fresh(trainer.model, 0, step) for step in (3, 6))
    name = "label_embedding.weight"
    assert not torch.equal(one[name], other[name]) and not torch.equal(one[name], before[name])
    assert is_same(draw_fresh(trainer.model, 0, 3), one)
    assert (
        0.5 < one["backbone.blocks.0.mlp.0.weight"].std() / before["backbone.blocks.0.mlp.0.weight"].std() < 2
    )


def test_drawing_fresh_weights_moves_no_generator(task):
    model = build(task)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw_fresh(model, 0, 1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.integration
@pytest.mark.parametrize("by", ["l2", "decay"])
def test_a_penalty_from_the_start_is_the_regularization_of_the_run(tmp_path, task, plain, by):
    own = Regularize(by=by, strength=0.05, groups=["mlp"])
    _, seen = train(tmp_path / "a", task, [own])
    same = Regularization(kind=by, strength=0.05, groups=["mlp"])
    rate = {"weight_decay": 0.05} if by == "decay" else {}
    _, other = train(tmp_path / "b", task, [], regularization=same, **rate)
    for name in seen[STEPS]:
        torch.testing.assert_close(seen[STEPS][name], other[STEPS][name], rtol=1e-4, atol=2e-6)
    assert not torch.allclose(seen[STEPS]["head.weight"], plain["head.weight"], atol=1e-6)


@pytest.mark.integration
def test_a_penalty_begins_and_ends(tmp_path, task):
    _, without = train(tmp_path / "a", task, [])
    _, seen = train(tmp_path / "b", task, [Regularize(by="l2", strength=1.0, start=3, stop=5)])
    same = [is_same(seen[step], without[step]) for step in range(STEPS + 1)]
    assert same == [True] * 4 + [False] * 5
    norms = [sum(w.square().sum().item() for w in one.values()) for one in (seen[5], without[5])]
    assert norms[0] < norms[1]


def test_scaled_gradients_take_no_penalty(tmp_path, task):
    callback = InterventionCallback(task, [Regularize(by="l2", strength=1.0)])
    args = arguments(tmp_path)
    args.fp16 = True
    with pytest.raises(ConfigError, match="fp16 = True: scales the gradients"):
        callback.on_train_begin(args, None, None, model=build(task))


# Attention


class Keep(Visitor):
    def __init__(self):
        self.patterns = {}

    def take_pattern(self, layer, pattern):
        self.patterns[layer] = pattern.detach()
        return pattern


def look(task, model, intervention=None, evaluator="icl"):
    """Return patterns by layer on an evaluator's sequences, under an intervention, and the logits."""
    keep, batch = Keep(), task.evaluators[evaluator].batch
    with torch.no_grad():
        if intervention is None:
            with visit(model, keep):
                return task.predict(model, batch), keep.patterns
        with visit(model, intervention.bind(task, model).visitor), visit(model, keep):
            return task.predict(model, batch), keep.patterns


@pytest.mark.parametrize("strength", [0.25, 1.0])
@pytest.mark.parametrize("evaluator", ["icl", "flip"])
def test_clamped_heads_look_where_they_are_told_to(task, strength, evaluator):
    model = build(task).eval()
    _, intact = look(task, model, evaluator=evaluator)
    layout, batch = lay_out(task.n_context, "interleaved"), task.evaluators[evaluator].batch
    clamp = Clamp(heads=["L0H1"], pattern="previous_token", strength=strength)
    logits, found = look(task, model, clamp, evaluator)
    for label, exemplar in zip(layout.labels, layout.exemplars, strict=True):
        target = (1 - strength) * intact[0][:, 1, label]
        target[:, exemplar] += strength
        torch.testing.assert_close(found[0][:, 1, label], target)
    assert torch.equal(found[0][:, 0], intact[0][:, 0])
    assert torch.equal(found[0][:, 1, layout.query], intact[0][:, 1, layout.query])
    assert not torch.equal(logits, look(task, model, evaluator=evaluator)[0])  # the answer hears of it
    _, found = look(task, model, Clamp(heads=["L1"], pattern="induction", strength=strength), evaluator)
    for row in range(len(batch)):
        right = layout.labels[batch.labels[row, :-1] == batch.labels[row, -1]]
        target = (1 - strength) * intact[1][row, :, layout.query]
        target[:, right] += strength / len(right)
        torch.testing.assert_close(found[1][row, :, layout.query], target)


def test_sequences_without_the_right_label_are_left_alone():
    labels = torch.tensor([[1, 2], [1, 3]])
    wanted = aim_at_label(labels, torch.tensor([2, 2]), lay_out(2, "interleaved"), 5)
    assert wanted.is_set_BP.sum(1).tolist() == [1, 0] and wanted.target_BPP[0, 4].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("pattern", ["previous_token", "induction"])
def test_forbidden_attention_is_as_if_its_scores_were_minus_infinity(task, pattern):
    model, layer = build(task).eval(), 1
    _, intact = look(task, model)
    _, found = look(task, model, Forbid(heads=["L1H0"], pattern=pattern))
    layout, batch = lay_out(task.n_context, "interleaved"), task.evaluators["icl"].batch
    places = intact[layer].shape[-1]
    banned = torch.zeros(len(batch), places, places, dtype=torch.bool)
    if pattern == "previous_token":
        banned[:, layout.labels, layout.exemplars] = True
    else:
        banned[:, layout.query, layout.labels] = batch.labels[:, :-1] == batch.labels[:, -1:]
    expected = intact[layer][:, 0].log().masked_fill(banned, -torch.inf).softmax(-1)
    torch.testing.assert_close(found[layer][:, 0], expected)
    assert (found[layer][:, 0][banned] == 0).all() and torch.equal(found[layer][:, 1], intact[layer][:, 1])


def test_temperature_divides_scores(task):
    model = build(task).eval()
    _, intact = look(task, model)
    _, found = look(task, model, Temperature(heads=["L0H0"], value=3.0))
    torch.testing.assert_close(found[0][:, 0], (intact[0][:, 0].log() / 3).softmax(-1))
    assert torch.equal(found[0][:, 1], intact[0][:, 1])


@pytest.mark.integration
def test_what_is_measured_in_training_is_the_model_under_the_ablation(tmp_path, task):
    trainer = make(tmp_path, task, [Ablate(heads=["L0H1", "L1"])])
    trainer.train()
    effects = measure_effects(task, trainer.model.eval(), {"mine": Ablation(heads=["L0H1", "L1"])})
    measured = trainer.transience.history.rows[-1]["metrics"]
    assert (
        effects[1].metrics == pytest.approx(measured, abs=1e-6) and effects[0].metrics != effects[1].metrics
    )


@pytest.mark.integration
def test_an_ablated_head_does_not_learn(tmp_path, task):
    _, seen = train(tmp_path, task, [Ablate(heads=["L0H1"], how="mean")])
    weight = "backbone.blocks.0.attention.qkv.weight"
    moved = (seen[STEPS][weight] != seen[0][weight]).any(1).view(3, 2, 8).any(-1)
    assert moved.tolist() == [[True, False]] * 3


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_replaced_outputs_are_those_of_the_batch(task, how):
    output = torch.randn(5, 3, 2, 4)
    action = Ablate(heads=["L0H1"], how=how).bind(task, build(task))
    found = action.visitor.take_output(0, output)
    expected = output.mean(0, keepdim=True).expand(5, -1, -1, -1) if how == "mean" else output.roll(1, 0)
    assert torch.equal(found[:, :, 0], output[:, :, 0])
    torch.testing.assert_close(found[:, :, 1], expected[:, :, 1])
    assert torch.equal(action.visitor.take_output(1, output), output)


@pytest.mark.integration
def test_attention_goes_back_to_its_own_when_an_intervention_ends(tmp_path, task):
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            found.append(model.backbone.config._attn_implementation)

    found = []
    trainer = make(tmp_path, task, [Ablate(heads=["L0"], start=2, stop=5)], callbacks=[Look()])
    own = trainer.model.backbone.config._attn_implementation
    trainer.train()
    assert [one != own for one in found] == [2 < step <= 5 for step in range(1, STEPS + 1)]
    saved = json.loads((tmp_path / f"checkpoint-{HALF}" / "config.json").read_text())
    assert "visited" not in json.dumps(saved)


@pytest.mark.integration
def test_tokens_of_a_language_model_are_clamped_in_training_and_in_evaluation(tmp_path):
    task = Task(TaskConfig(bank=BANK | {"n_exemplars": 1}, form="tokens", n_eval_sequences=20))
    set_seed(0)
    shape = dict(n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=count_tokens(task.bank))
    model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    keep = Keep()
    inputs = task.encode(task.train_sampler.draw(0, 6))
    trainer = make(tmp_path, task, [Clamp(heads=["L1"], pattern="induction")], model=model)
    callback = trainer.interventions
    about = trainer.args, trainer.state, trainer.control
    callback.on_train_begin(*about, model=model.eval())
    callback.on_step_begin(*about, model=model)
    with visit(model, keep):
        model(**inputs)
        tokens = inputs["input_ids"]
        right = tokens[:, 1:-2:2] == tokens[:, -1:]
        seen = keep.patterns[1][:, :, -2, 1:-2:2]
        torch.testing.assert_close(seen.sum(-1), torch.ones_like(seen.sum(-1)))
        assert (seen[:, 0][~right] == 0).all() and right.any(1).all()
        task.predict(model, task.evaluators["icl"].batch)
        assert keep.patterns[1][:, :, -1, 1::2].sum(-1).allclose(torch.ones(()))
    callback.on_train_end(*about)
    trainer.train()
    assert len(trainer.transience.history.rows) == 5


@pytest.mark.integration
def test_families_that_write_attention_out_are_ablated_and_refuse_clamps_by_name(tmp_path, task):
    model = build(task, BloomConfig(n_layer=2, hidden_size=16, n_head=2))
    make(tmp_path, task, [Ablate(heads=["L0H1"])], model=model).train()
    with pytest.raises(ConfigError, match="interventions.0.model = 'BloomModel': bloom shows patterns, but"):
        make(tmp_path / "b", task, [Temperature(heads=["L0"], value=2.0)], model=model).train()


# Resuming, other loops, anybody's Trainer


def list_all(folder):
    """Return an intervention of every kind, such that it acts on both sides of a checkpoint."""
    fall = Trigger(metric="train/loss", falls_by=1e-4)
    return {
        "ablate": Ablate(heads=["L0H1"], how="resample", start=1, stop=6),
        "clamp": Clamp(heads=["L1"], pattern="induction", strength=0.5, start=1),
        "forbid": Forbid(heads=["L0"], pattern="previous_token", start=2, stop=7),
        "temperature": Temperature(heads=["L1H1"], value=2.0),
        "freeze": Freeze(layers=[1], start=3, stop=7),
        "graft": Graft(source=str(folder), groups=["head"], start=HALF),
        "follow": Graft(source=str(folder), groups=["mlp"], follow=True),
        "reset": Reset(groups=["embeddings"], every=2),
        "l2": Regularize(by="l2", strength=0.1, start=3, stop=6),
        "decay": Regularize(by="decay", strength=0.1, when=fall),
        "rescue": Freeze(groups=["attention"], when=fall),
    }


WEIGHT_KINDS = ["freeze", "graft", "follow", "reset", "l2", "decay", "rescue"]


@pytest.fixture(scope="module")
def donor(task, tmp_path_factory):
    """A finished run of the same shape: checkpoints at 2, 4, 6, 8, and a final model."""
    folder = tmp_path_factory.mktemp("donor")
    model = build(task, label_init_std=1.0)
    trainer = make(folder, task, model=model, save_steps=2)
    trainer.train()
    model.save_pretrained(folder)
    mark_whole(folder, folder.glob("*.*"))
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("name", ["ablate", "clamp", "forbid", "temperature", *WEIGHT_KINDS])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path, task, plain, donor, name):
    one = list_all(donor)[name]
    whole = make(tmp_path / "whole", task, [one])
    whole.train()
    assert not is_same(read(whole.model), plain)  # it does something
    resumed = make(tmp_path / "resumed", task, [one])
    (tmp_path / "resumed/history.jsonl").write_bytes((tmp_path / "whole/history.jsonl").read_bytes())
    resumed.train(resume_from_checkpoint=str(tmp_path / f"whole/checkpoint-{HALF}"))
    assert is_same(read(whole.model), read(resumed.model))
    assert resumed.transience.history.rows == whole.transience.history.rows


@pytest.mark.integration
@pytest.mark.parametrize("name", WEIGHT_KINDS)
def test_stacked_steps_do_what_the_stock_loop_does(tmp_path, task, plain, donor, name):
    one = list_all(donor)[name]
    stock = make(tmp_path / "stock", task, [one])
    stock.train()
    stacked = [make(tmp_path / "a", task, [one]), make(tmp_path / "b", task)]
    train_together(stacked, compiled=False)
    for trainer, alone in zip(stacked, (read(stock.model), plain), strict=True):
        for key, weight in alone.items():
            torch.testing.assert_close(trainer.model.get_parameter(key), weight, rtol=1e-3, atol=2e-4)
    again = [make(tmp_path / "c", task, [one]), make(tmp_path / "d", task)]
    for trainer, first in zip(again, "ab", strict=True):
        history = (tmp_path / first / "history.jsonl").read_bytes()
        (Path(trainer.args.output_dir) / "history.jsonl").write_bytes(history)
    train_together(again, [tmp_path / first / f"checkpoint-{HALF}" for first in "ab"], compiled=False)
    assert is_same(read(again[0].model), read(stacked[0].model))


@pytest.mark.parametrize("kind", ["ablate", "temperature"])
def test_compiled_steps_refuse_by_name_what_changes_attention(tmp_path, kind, caplog):
    wrong = {"kind": kind, "heads": ["L0"]} | ({"value": 2.0} if kind == "temperature" else {})
    words = [*TINY, f"training.interventions=[{json.dumps(wrong)}]"]
    with pytest.raises(ConfigError, match=f"training.interventions = .*{kind}.*stock loop"):
        Run.create(load_config("default", [*words, "training.compile=true"]), tmp_path / "a")
    Run.create(load_config("default", [*words, "training.steps=6000"]), tmp_path / "b")
    assert (
        f"steps are not compiled, so they take about twice as long: {kind} changes attention" in caplog.text
    )


FALL = "{metric: train/loss, falls_by: 0.001}"


@pytest.mark.integration
def test_a_run_that_is_stopped_early_ends_with_a_checkpoint_and_is_finished(tmp_path):
    words = [*TINY, "training.steps=40", "evaluate={steps: [1, 2, 3, 4, 6]}", "training.checkpoint_every=30",
             f"training.interventions=[{{kind: early_stop, when: {FALL}}}]"]  # fmt: skip
    run = Run.create(load_config("default", words), tmp_path / "run")
    run.train()
    rows = run.history.rows
    losses = [row["metrics"]["train/loss"] for row in rows]
    assert losses[-1] <= max(losses) - 0.001 and rows[-1]["step"] < 30 and run.is_finished
    assert [path.name for path in run.folder.glob("checkpoint-*")] == [f"checkpoint-{rows[-1]['step']}"]
    (run.folder / "complete.json").unlink()  # as if killed before the final model was kept
    again = Run.open(run.folder)
    again.train()
    assert again.is_finished and again.history.last_step == rows[-1]["step"]


@pytest.mark.integration
def test_of_stacked_replicas_one_that_stops_leaves_the_others_be(tmp_path):
    words = [
        *TINY,
        "training.steps=12",
        "evaluate=2",
        "training.checkpoint_every=6",
        "training.compile=false",
    ]
    stop = f"training.interventions=[{{kind: early_stop, when: {FALL}}}]"
    runs = [
        Run.create(load_config("default", [*words, *more]), tmp_path / str(number))
        for number, more in enumerate(([stop], ["seed=1"]))
    ]
    train_replicas(runs, n_processes=1)
    assert runs[0].history.last_step < 12 and runs[1].history.last_step == 12
    assert all(run.is_finished for run in runs)
    ended = {run: (run.folder / "history.jsonl").read_bytes() for run in runs}
    for run in runs:  # as a kill would leave them that came before both were marked as finished
        (run.folder / "complete.json").unlink()
    shutil.rmtree(runs[1].folder / "checkpoint-12")
    train_replicas([Run.open(run.folder) for run in runs], n_processes=1)
    assert all(run.is_finished for run in runs)
    for run, content in ended.items():
        assert (run.folder / "history.jsonl").read_bytes() == content, run


@pytest.mark.parametrize("kind", [Freeze, Reset])
@pytest.mark.parametrize("field", ["groups", "layers"])
def test_an_empty_choice_of_weights_is_refused(kind, field):
    """It would mean all of them, or none."""
    with pytest.raises(ConfigError, match=field):
        kind(**{field: []})


def test_a_diverged_training_is_stopped_without_a_checkpoint_by_whatever_else_stops_it(tmp_path, task):
    """Answers that are no numbers are wrong ones, so that accuracy falls, and a `Stop` fires too."""
    args = arguments(tmp_path, learning_rate=1e30, save_strategy="steps", save_steps=50)
    trainer = TransienceTrainer(
        build(task), args, task, schedule=1,
        interventions=[Stop(when=Trigger(metric="icl/accuracy", falls_by=1e-6))],
    )  # fmt: skip
    trainer.train()
    assert trainer.transience.diverged_step == 1 and not list(tmp_path.glob("checkpoint-*"))


def test_anybodys_trainer_takes_interventions_and_stops(tmp_path, task):
    model, watcher = build(task), Watcher()
    args = arguments(tmp_path, save_strategy="no")
    trainer = Trainer(model, args, train_dataset=task.dataset(STEPS * 8), data_collator=task.collate)
    stop = Stop(start=3, when=Trigger(metric="train/loss", falls_by=1e-4))
    clamp = Clamp(heads=["L1"], pattern="induction", stop=2)
    trainer.add_callback(TransienceCallback(task, schedule=2, log=trainer.log))
    trainer.add_callback(InterventionCallback(task, [Freeze(layers=[0]), clamp, stop]))
    trainer.add_callback(watcher)
    trainer.train()
    assert trainer.state.global_step == 4 and not list(tmp_path.glob("checkpoint-*"))
    held = find_parameters(model, None, [0])
    assert all(torch.equal(watcher.seen[1][name], watcher.seen[4][name]) for name in held)
    assert not torch.equal(watcher.seen[1]["head.weight"], watcher.seen[4]["head.weight"])


def test_parts_of_a_model_are_found_by_group_and_layer(task):
    model = build(task)
    groups = parameter_groups(model)
    assert find_parameters(model) == [name for names in groups.values() for name in names]
    both = find_parameters(model, None, [0]) + find_parameters(model, None, [1])
    assert set(find_parameters(model)) - set(both) == {
        name for name in find_parameters(model) if ".blocks." not in name
    }
    with pytest.raises(ConfigError, match="layers = 2: .* There are 0, 1."):
        find_parameters(model, None, [2])
