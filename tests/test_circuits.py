"""Heads: scores by hand, the look into every family's attention, and heads as an instrument of a run."""

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AttentionMaskInterface, Trainer, TrainingArguments
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_icl.circuits.attention import VISITED, Visitor, check_heads, visit
from hf_icl.circuits.heads import lay_out, match_prefix, score_heads, weigh_labels
from hf_icl.circuits.instrument import HeadInstrument, HeadScores, find_instruments
from hf_icl.errors import ConfigError
from hf_icl.history.history import History
from hf_icl.models import CausalTransformerConfig, ICLModel
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.summary.heads import HeadMetric, read_heads
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from hf_icl.training.callback import TransienceCallback
from tests.families import FAMILIES, tiny_config, tiny_model
from tests.programs import TINY

NO_PARTS = {"GPT-Neo", "GPT-J", "CodeGen", "BLOOM", "Falcon", "MPT", "XGLM"}  # attention of their own
NO_HEADS = {"Mamba", "Mamba-2", "Falcon-Mamba", "RWKV", "xLSTM"}
if Version(transformers.__version__) < Version("5.13"):  # till then they wrote out attention of their own
    NO_HEADS |= {"Nemotron", "RecurrentGemma", "CTRL"}
BANK = {"kind": "gaussian", "n_classes": 16, "n_holdout_classes": 4, "n_labels": 4, "dim": 8}


def make_task(form="vectors", n_context=2, **settings):
    bank = BANK if form == "vectors" else {**BANK, "kind": "symbolic"}
    bank = {name: value for name, value in bank.items() if form == "vectors" or name != "dim"}
    train = {"n_context": n_context, "burst": 1}
    return Task(TaskConfig(bank=bank, form=form, train=train, n_eval_sequences=30, **settings))


def make_native(task, places="interleaved", **settings):
    torch.manual_seed(0)
    shape = CausalTransformerConfig(
        **{"n_layers": 2, "d_model": 16, "n_heads": 2, "max_places": 16} | settings
    )
    return ICLModel.from_backbone(shape, task.bank, n_context=task.n_context, places=places).eval()


# ---- Scores


def test_scores_of_two_shots_by_hand():
    """Labels 7 9 9 7, the right one 7: (.1 + .3) / 2 − (.2 + .05) / 2; place 2i + 1 looks at 2i."""
    pattern = torch.zeros(1, 2, 9, 9)
    pattern[0, 0, 8, [1, 3, 5, 7]] = torch.tensor([0.1, 0.2, 0.05, 0.3])
    pattern[0, 0, [1, 3, 5, 7], [0, 2, 4, 6]] = torch.tensor([0.5, 0.7, 0.9, 0.1])
    pattern[0, 0, [1, 3, 5, 7], [1, 3, 5, 7]] = torch.tensor([0.4, 0.0, 0.0, 0.2])
    pattern[0, 1, 8, 8] = 1.0
    found = score_heads(pattern, lay_out(4, "interleaved"), torch.tensor([[7, 9, 9, 7]]), torch.tensor([7]))
    by_hand = {"induction": 0.075, "context_mass": 0.65, "previous_token": 0.55, "own_token": 0.15}
    assert found.keys() == by_hand.keys()
    for name, value in by_hand.items():
        assert found[name][0].tolist() == pytest.approx([value, 0.0]), name


def test_paired_places_have_no_previous_token():
    pattern = torch.tensor([0.2, 0.5, 0.3]).expand(1, 1, 3, 3)
    found = score_heads(pattern, lay_out(2, "paired"), torch.tensor([[1, 0]]), torch.tensor([0]))
    assert found.keys() == {"induction", "context_mass"}
    assert found["induction"].item() == pytest.approx(0.3) and found["context_mass"].item() == pytest.approx(
        0.7
    )


@pytest.mark.parametrize("places", ["interleaved", "paired"])
@pytest.mark.parametrize("n_context", [2, 3, 8])
def test_scores_equal_a_plain_loop(places, n_context):
    random = torch.Generator().manual_seed(n_context)
    layout = lay_out(n_context, places, n_before=1)
    n_places = layout.query + 1
    pattern = torch.rand(5, 3, n_places, n_places, generator=random).tril()
    pattern /= pattern.sum(-1, keepdim=True)
    labels = torch.randint(3, (5, n_context), generator=random)
    labels[:, 0], labels[:, 1] = 0, 1  # so that every context has both kinds
    found = score_heads(pattern, layout, labels, torch.zeros(5, dtype=torch.int64))
    for b, h in np.ndindex(5, 3):
        row = [pattern[b, h, layout.query, place].item() for place in layout.labels]
        right = [a for a, label in zip(row, labels[b], strict=True) if label == 0]
        other = [a for a, label in zip(row, labels[b], strict=True) if label != 0]
        strength = sum(right) / len(right) - sum(other) / len(other)
        assert found["induction"][b, h].item() == pytest.approx(strength, abs=1e-6)
        assert -1 <= strength <= 1 and found["context_mass"][b, h].item() == pytest.approx(sum(row), abs=1e-6)


def test_places_before_the_first_exemplar_move_everything():
    plain, moved = (lay_out(3, "interleaved", n_before=by) for by in (0, 2))
    assert torch.equal(moved.exemplars, plain.exemplars + 2) and torch.equal(moved.labels, plain.labels + 2)
    assert (plain.query, moved.query) == (6, 8)


def test_the_other_label_of_two_turns_the_sign():
    labels = torch.tensor([[4, 6, 6, 4]])
    right, other = (weigh_labels(labels, torch.tensor([target])) for target in (4, 6))
    assert torch.equal(right, -other)


def test_a_context_without_the_right_label_has_no_strength():
    assert weigh_labels(torch.tensor([[1, 2]]), torch.tensor([0])).isnan().all()


def test_prefix_matching_by_hand():
    """Of t1 t2 t3 t1 t2 t3, places 3, 4, 5 repeat: what followed stands at 1, 2, 3, the tokens at 0, 1, 2."""
    pattern = torch.zeros(1, 1, 6, 6)
    pattern[0, 0, [3, 4, 5], [1, 2, 3]] = torch.tensor([0.9, 0.6, 0.3])
    pattern[0, 0, [3, 4, 5], [0, 1, 2]] = 0.1
    pattern[0, 0, [3, 4], [2, 3]] = torch.tensor([0.0, 0.3])
    found = {name: value.item() for name, value in match_prefix(pattern, 3).items()}
    by_hand = {"prefix_matching": 0.6, "duplicate_token": 0.1, "previous_token_repeat": 0.1}
    assert found == pytest.approx(by_hand)


# ---- The look into a model


def test_a_model_that_attends_evenly_scores_as_counting_says():
    """Queries and keys of zero: place p gives 1 / (p + 1) to itself and each one before."""
    task = make_task(n_context=2)
    model = make_native(task)
    for block in model.backbone.blocks:
        torch.nn.init.zeros_(block.attention.qkv.weight)
        torch.nn.init.zeros_(block.attention.qkv.bias)
    found = HeadInstrument().measure(task, model)
    assert [scores.evaluator for scores in found] == ["icl", "flip"] and found[0].layers == (0, 1)
    for scores in found:
        assert torch.equal(scores.values["induction"], torch.zeros(30, 2, 2))
        for name, value in {"context_mass": 2 / 5, "previous_token": (1 / 2 + 1 / 4) / 2}.items():
            torch.testing.assert_close(scores.values[name], torch.full((30, 2, 2), value))
        torch.testing.assert_close(scores.values["own_token"], scores.values["previous_token"])


@pytest.mark.parametrize("places", ["interleaved", "paired"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_native_model_shows_the_attention_that_it_returns(places, positions):
    task = make_task(n_context=3)
    model = make_native(task, places, positions=positions)
    batch = task.evaluators["icl"].batch
    inputs = task.encode(batch)
    returned = model(**inputs, output_attentions=True)
    with torch.no_grad():
        plain = task.predict(model, batch)
        watch = Watch()
        with visit(model, watch):
            visited = task.predict(model, batch)
    torch.testing.assert_close(visited, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(returned.logits, plain, rtol=1e-5, atol=1e-6)
    for layer, pattern in enumerate(returned.attentions):
        torch.testing.assert_close(watch.patterns[layer], pattern)
    assert model.backbone.config._attn_implementation == "sdpa"
    assert torch.equal(task.predict(model, batch), plain)


class Watch(Visitor):
    def __init__(self):
        self.patterns, self.shapes = {}, {}

    def take_pattern(self, layer, pattern):
        self.patterns[layer] = pattern
        return pattern

    def take_output(self, layer, output):
        self.shapes[layer] = tuple(output.shape)
        return output


class Copy(Visitor):
    """Gives back copies, so that everything is computed from what was given back."""

    needs_parts = True

    def take_parts(self, layer, query, key, value):
        return query.clone(), key.clone(), value.clone()

    def take_pattern(self, layer, pattern):
        return pattern.clone()


@pytest.mark.filterwarnings("ignore")  # the families' own
@pytest.mark.parametrize("family", FAMILIES)
def test_a_look_changes_no_answer_and_shows_no_later_place(family):
    """In every family of the table: same logits as without, and no earlier logit moves with a later token."""
    if FAMILIES[family][0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[family][0]}")
    torch.manual_seed(0)
    model = tiny_model(family, 32).eval()
    if family in NO_HEADS:
        with pytest.raises(ConfigError, match="no attention that hf_icl can look into"):
            check_heads(model)
        return
    if family == "XLNet":
        with pytest.raises(ConfigError, match="none can be ablated"), visit(model, Watch()):
            pass
        return
    check_heads(model)
    ids = torch.randint(2, 32, (3, 7))
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 32
    before = model.config._attn_implementation
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        watch = Watch()
        with visit(model, watch):
            found, moved = model(input_ids=ids).logits, model(input_ids=other).logits
        assert model.config._attn_implementation == before
        assert torch.equal(model(input_ids=ids).logits, wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert watch.patterns and watch.patterns.keys() == watch.shapes.keys()
    for layer, pattern in watch.patterns.items():
        n_heads = watch.shapes[layer][2]
        assert pattern.shape == (3, n_heads, 7, 7) and (pattern.sum(-1) <= 1 + 1e-5).all()
    if family == "BERT":
        return  # looks ahead, by design
    torch.testing.assert_close(moved[:, :4], found[:, :4], rtol=1e-4, atol=1e-5)
    assert (moved[:, 4] - found[:, 4]).abs().max() > 1e-4
    assert all(pattern.triu(1).abs().max() == 0 for pattern in watch.patterns.values())
    if family in NO_PARTS:
        with pytest.raises(ConfigError, match="lets nobody change"), torch.no_grad(), visit(model, Copy()):
            model(input_ids=ids)
        return
    with torch.no_grad(), visit(model, Copy()):
        copied = model(input_ids=ids).logits
    torch.testing.assert_close(copied, wanted, rtol=1e-4, atol=1e-5)


def test_without_its_mask_function_a_model_would_see_the_future(monkeypatch):
    """The twin of the test above: what it would find if the mask were forgotten."""
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, VISITED)
    torch.manual_seed(0)
    model, watch = tiny_model("Llama", 32).eval(), Watch()
    with torch.no_grad(), visit(model, watch):
        model(input_ids=torch.randint(2, 32, (3, 7)))
    assert watch.patterns[0].triu(1).max() > 0.01


def test_a_failing_forward_leaves_the_model_as_it_was():
    task = make_task()
    model = make_native(task)
    with pytest.raises(ZeroDivisionError), visit(model, Watch()):
        raise ZeroDivisionError
    assert model.backbone.config._attn_implementation == "sdpa"


def test_families_of_their_own_attention_change_no_parts():
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="gptj shows patterns, but lets nobody change"):
        with visit(tiny_model("GPT-J", 32), Copy()):
            pass


# ---- The instrument


@pytest.mark.parametrize("family", ["GPT-2", "GPT-J"])
def test_tokens_and_vectors_are_measured_alike(family):
    """A language model as it is, and one inside an `ICLModel`, for a task of each form."""
    for form in ("tokens", "vectors"):
        task = make_task(form)
        torch.manual_seed(0)
        model = tiny_model(family, 32)
        if form == "vectors":
            config = tiny_config(family, 32)
            model = ICLModel.from_backbone(config, task.bank, n_context=2, places="interleaved")
        found = task.measure(model, instruments=[HeadInstrument()]).means
        heads = [metric for name in found if (metric := HeadMetric.read(name))]
        assert {(one.layer, one.head) for one in heads} == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert {one.score for one in heads} == {"induction", "context_mass", "previous_token", "own_token"}
        assert model.training


def test_parts_of_a_batch_are_scored_as_the_whole():
    task = make_task()
    model = make_native(task)
    whole, parts = (HeadInstrument().measure(task, model, batch_size=size) for size in (100, 7))
    for one, other in zip(whole, parts, strict=True):
        for name in one.values:
            torch.testing.assert_close(one.values[name], other.values[name])


def test_means_leave_out_what_is_not_defined_and_intervals_cover_them():
    values = torch.tensor([[[0.2]], [[torch.nan]], [[0.4]]])
    scores = HeadScores("mine", (3,), {"induction": values})
    assert scores.metrics() == {"heads/induction/mine/L3H0": pytest.approx(0.3)}
    low, high = scores.interval("induction")
    assert low.item() == pytest.approx(0.2) and high.item() == pytest.approx(0.4)
    nothing = HeadScores("mine", (3,), {"induction": values[1:2]})
    assert nothing.metrics() == {} and np.isnan(nothing.interval("induction")[0]).all()


def test_evaluators_that_ask_for_no_label_of_the_context_are_refused():
    task = make_task(evaluators=["iwl"])
    with pytest.raises(ConfigError, match="in none of the task's evaluators"):
        HeadInstrument().measure(task, make_native(task))
    with pytest.raises(ConfigError, match="no such evaluator. Did you mean iwl"):
        HeadInstrument(("iwll",)).measure(task, make_native(task))
    with pytest.raises(ConfigError, match="no such instrument. Did you mean heads"):
        find_instruments(["head"])


def test_a_stock_trainer_measures_heads_by_name(tmp_path):
    task = make_task("tokens")
    torch.manual_seed(0)
    args = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(tiny_model("Llama", 32), args, train_dataset=task.dataset(8))
    trainer.add_callback(TransienceCallback(task, schedule=1, log=trainer.log, instruments=["heads"]))
    trainer.train()
    curves = read_heads(History(tmp_path / "history.jsonl").rows)["induction", "flip"]
    assert curves.steps.tolist() == [0, 1, 2] and curves.values.shape == (3, 2, 2)
    assert any("heads/induction/icl/L1H1" in entry for entry in trainer.state.log_history)


def test_heads_change_nothing_else_of_a_run(tmp_path):
    """Weights and other metrics are those of a run without, to the last bit."""
    rows = []
    for name, heads in (("with", "true"), ("without", "false")):
        words = [*TINY, "training.steps=4", "evaluate.every=2", f"evaluate.heads={heads}"]
        run = Run.create(load_config("default", words), tmp_path / name)
        run.train()
        rows.append(run.history.rows)
    assert any(HeadMetric.read(name) for name in rows[0][-1]["metrics"])
    for with_heads, without in zip(*rows, strict=True):
        kept = {name: v for name, v in with_heads["metrics"].items() if HeadMetric.read(name) is None}
        assert kept == without["metrics"] and with_heads["hits"] == without["hits"]


def test_a_backbone_without_heads_is_told_before_it_trains(tmp_path):
    mamba = "{model_type: mamba, hidden_size: 16, num_hidden_layers: 1, state_size: 4}"
    words = [*TINY, "training.steps=2", f"model.backbone={mamba}", "evaluate.heads=true"]
    with pytest.raises(ConfigError, match="evaluate.heads.model = 'MambaModel': has no attention"):
        Run.create(load_config("default", words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- Names and curves


def test_curves_are_read_by_layer_and_head_whatever_the_order():
    name = HeadMetric("induction", "mine", 2, 1).name
    rows = [
        {"step": 9, "metrics": {name: 0.5, "heads/induction/mine/L0H0": -0.2}},
        {"step": 3, "metrics": {"mine/accuracy": 1.0}},
        {"step": 4, "metrics": {name: 0.1}},
        {"step": 9, "metrics": {name: 0.7, "heads/induction/mine/L0H0": -0.3}},
    ]
    curves = read_heads(rows)["induction", "mine"]
    assert curves.steps.tolist() == [4, 9] and curves.layers == (0, 2)
    assert curves.of(2, 1).tolist() == [0.1, 0.7] and curves.of(0, 0)[1] == -0.3
    assert curves.find_strongest(8) == (2, 1) and np.isnan(curves.at(4)[0]).all()
    assert read_heads([{"step": 1, "metrics": {"heads/induction": 0.5}}]) == {}
