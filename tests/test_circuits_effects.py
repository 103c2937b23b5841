"""Ablations, what later layers keep, and the direct path: twins that must agree, in several families."""

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_icl.circuits.ablated import Ablation
from hf_icl.circuits.ablation import PartRecorder, pair_up, prepare
from hf_icl.circuits.attention import visit
from hf_icl.circuits.effects import count_heads, list_lone_heads, list_single_heads, measure_effects
from hf_icl.circuits.path import DirectPath, cut, find_ends
from hf_icl.errors import ConfigError
from tests.families import FAMILIES, tiny_model
from tests.test_circuits import NO_HEADS, make_native, make_task

PROJECTIONS = {
    "GPT-2": ("transformer.h.{}.attn.c_proj", True),
    "Llama": ("model.layers.{}.self_attn.o_proj", False),
    "GPT-J": ("transformer.h.{}.attn.out_proj", False),
}  # name, and whether the weight is stored inputs first

NO_LAST_NORM = {"BERT", "BERT, as decoder", "XLNet"}


@torch.no_grad()
def answer(task, model, ablation, evaluator="icl"):
    """Return the logits of an evaluator's sequences under an ablation."""
    one = task.evaluators[evaluator]
    heads = ablation.select(count_heads(task, model))
    return prepare(task, model, ablation, heads, 100, one)(one.batch)


@torch.no_grad()
def intact(task, model, evaluator="icl"):
    return task.predict(model, task.evaluators[evaluator].batch)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", PROJECTIONS)
def test_a_head_set_to_zero_is_one_whose_weights_are_zero(family):
    """Head 1 of layer 1, 16 wide: columns 16 to 31 of what maps outputs to the stream."""
    task = make_task("tokens")
    torch.manual_seed(0)
    model = tiny_model(family, 32).eval()
    before, ablated = intact(task, model), answer(task, model, Ablation(heads=["L1H1"]))
    assert (ablated - before).abs().max() > 1e-4
    close(intact(task, model), before)
    name, inputs_first = PROJECTIONS[family]
    weight = model.get_submodule(name.format(1)).weight.data
    (weight if inputs_first else weight.T)[16:32] = 0
    close(ablated, intact(task, model))


@pytest.mark.parametrize("places", ["interleaved", "paired"])
def test_the_direct_path_is_what_is_left_without_heads(places):
    """Of attention-only layers whose projections add nothing of their own."""
    task = make_task()
    model = make_native(task, places, mlp_ratio=0)
    for block in model.backbone.blocks:
        torch.nn.init.zeros_(block.attention.out.bias)
    with torch.no_grad(), cut(model, DirectPath(part="only")):
        direct = intact(task, model)
    close(direct, answer(task, model, Ablation(heads=["L0", "L1"])))
    assert (direct - intact(task, model)).abs().max() > 1e-2


@torch.no_grad()
def test_without_the_direct_path_the_rest_of_the_stream_is_read():
    task = make_task()
    model = make_native(task)
    batch = task.evaluators["icl"].batch
    states = model(**task.encode(batch), output_hidden_states=True).hidden_states
    streams = []
    hook = model.backbone.final_norm.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    intact(task, model)
    hook.remove()
    rest = model.backbone.final_norm(streams[0][:, -1] - states[0][:, -1])
    with cut(model, DirectPath(part="without")):
        close(intact(task, model), model.head(rest))


def test_all_that_is_kept_leaves_only_what_a_layer_writes_to_the_stream():
    """Patterns and values kept are queries, keys and values kept: layer 1 writes what it did before."""
    task = make_task()
    model = make_native(task, mlp_ratio=0)
    parts = [("patterns", "values"), ("queries", "keys", "values")]
    one, other = (answer(task, model, Ablation(heads=["L0"], keep=keep)) for keep in parts)
    close(one, other)
    streams = []
    hook = model.backbone.final_norm.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    intact(task, model)
    hook.remove()
    written = []
    first = model.backbone.blocks[0].attention
    hook = first.register_forward_hook(lambda module, _, out: written.append(out[0] - module.out.bias))
    intact(task, model)
    hook.remove()
    with torch.no_grad():
        by_hand = model.head(model.backbone.final_norm(streams[0][:, -1] - written[0][:, -1]))
    close(one, by_hand)


def test_each_part_that_is_kept_matters_and_queries_and_keys_make_the_pattern():
    task = make_task(n_context=4)
    model = make_native(task)
    for block in model.backbone.blocks:
        block.attention.qkv.weight.data *= 4  # so that patterns are far from even
    found = {
        keep: answer(task, model, Ablation(heads=["L0"], keep=keep))
        for keep in ((), ("queries",), ("keys",), ("values",), ("patterns",), ("queries", "keys"))
    }
    for keep, logits in found.items():
        if keep:
            assert (logits - found[()]).abs().max() > 1e-4, keep
    close(found["queries", "keys"], found["patterns",])


def test_parts_are_kept_after_the_last_ablated_layer_alone():
    """Of what is ablated in layers 0 and 1, layer 1's own parts feel layer 0: only layer 2's are put back."""
    task = make_task()
    model = make_native(task, n_layers=3)
    recorder = PartRecorder(("values", "patterns"), after=1)
    with visit(model, recorder):
        intact(task, model)
    assert recorder.found.keys() == {("values", 2), ("patterns", 2)}


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_heads_that_give_the_same_everywhere_can_be_replaced_by_means_and_others(how):
    """Values without weights, only biases: every head's output is the same for all sequences."""
    task = make_task()
    model = make_native(task)
    for block in model.backbone.blocks:
        torch.nn.init.zeros_(block.attention.qkv.weight[32:])
    close(answer(task, model, Ablation(heads=["L0", "L1"], how=how)), intact(task, model))
    assert (answer(task, model, Ablation(heads=["L0", "L1"])) - intact(task, model)).abs().max() > 1e-2


def test_means_and_resampled_outputs_are_those_of_the_evaluators_own_sequences():
    task = make_task()
    model = make_native(task, mlp_ratio=0)
    outputs = []
    projection = model.backbone.blocks[1].attention.out
    whole = task.evaluators["icl"].batch

    def record(module, args):
        outputs.append(args[0][:, -1])

    hook = projection.register_forward_pre_hook(record)
    with torch.no_grad():
        model(**task.encode(whole), output_attentions=True)
    hook.remove()
    for how in ("mean", "resample"):
        new = outputs[0].mean(0).expand(30, -1) if how == "mean" else outputs[0][pair_up(30)]
        replaced = torch.cat([outputs[0][:, :8], new[:, 8:]], dim=1)  # head 1, 8 wide

        def replace(module, args, replaced=replaced):
            return (torch.cat([args[0][:, :-1], replaced[:, None]], dim=1),)

        hook = projection.register_forward_pre_hook(replace)
        with torch.no_grad():
            by_hand = model(**task.encode(whole), output_attentions=True).logits
        hook.remove()
        close(answer(task, model, Ablation(heads=["L1H1"], how=how)), by_hand)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_sequence_is_never_resampled_from_itself(n):
    partner = pair_up(n)
    assert sorted(partner.tolist()) == list(range(n)) and (partner != torch.arange(n)).all()


def test_effects_name_each_change_beside_the_intact_model():
    task = make_task()
    model = make_native(task).train()
    counts = count_heads(task, model)
    assert counts == {0: 2, 1: 2}
    changes = {**list_single_heads(counts), **list_lone_heads(counts, 1), "direct": DirectPath(part="only")}
    found = {effect.name: effect for effect in measure_effects(task, model, changes)}
    assert list(found) == [
        "intact", "without L0H0", "without L0H1", "without L1H0", "without L1H1", "L1H0 alone", "L1H1 alone",
        "direct",
    ]  # fmt: skip
    assert found["intact"].metrics == task.measure(model).means and model.training
    assert found["without L1H0"].metrics == found["L1H1 alone"].metrics
    primaries = {evaluator.primary for evaluator in task.evaluators.values()}
    for effect in list(found.values())[1:]:
        assert effect.changes.keys() == primaries
        for metric, (value, low, high) in effect.changes.items():
            gap = effect.metrics[metric] - found["intact"].metrics[metric]
            assert value == pytest.approx(gap) and low <= value <= high


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heads": []}, "there is nothing to ablate"),
        ({"heads": ["L0H"]}, "heads = 'L0H': must name a head as L0H3, or a whole layer as L0"),
        ({"heads": ["L0"], "keep": ["patterns", "keys"]}, "leave nothing for queries and keys to do"),
        ({"heads": ["L0H2"]}, "heads = 'L0H2': the model has no such head. It has L0H0–1, L1H0–1."),
        ({"heads": ["L2"]}, "heads = 'L2': the model has no such head"),
        ({"heads": ["L1"], "keep": ["values"]}, "no layer comes after L1 that could keep anything"),
        ({"heads": ["L0"], "how": "median"}, "how = 'median'"),
    ],
)
def test_ablations_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ConfigError) as error:
        Ablation(**settings).select({0: 2, 1: 2})
    assert sentence in str(error.value)


def test_what_a_family_cannot_do_is_said():
    task = make_task("tokens")
    torch.manual_seed(0)
    model = tiny_model("GPT-J", 32)
    with pytest.raises(ConfigError, match="gptj shows patterns, but lets nobody change"):
        measure_effects(task, model, {"kept": Ablation(heads=["L0"], keep=["values"])})
    found = measure_effects(task, model, {"resampled": Ablation(heads=["L0"], how="resample")})
    assert found[1].metrics["icl/loss"] != found[0].metrics["icl/loss"]


@pytest.mark.filterwarnings("ignore")  # the families' own
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_HEADS])
def test_the_two_ends_of_the_stream_are_found_in_every_family(family):
    """What is left out and what is left add up to what the last norm sees of the intact model."""
    if FAMILIES[family][0] not in CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    torch.manual_seed(0)
    model, ids = tiny_model(family, 32).eval(), torch.tensor([[3, 4, 5, 6]])
    seen = {}
    for part in ("only", "without", None):
        try:
            with torch.no_grad():
                seen[part] = watch_norm(model, ids, part)
        except ConfigError as error:
            assert "one last norm after them, are not found" in str(error) and family in NO_LAST_NORM
            return
    assert family not in NO_LAST_NORM
    close(seen["only"] + seen["without"], seen[None])


def watch_norm(model, ids, part):
    norm = find_ends(model.base_model)[1]
    streams = []
    if part is None:
        hook = norm.register_forward_hook(lambda _, args, out: streams.append(args[0]))
        model(input_ids=ids, use_cache=False)
    else:
        with cut(model, DirectPath(part=part)):
            hook = norm.register_forward_hook(lambda _, args, out: streams.append(args[0]))
            model(input_ids=ids, use_cache=False)
    hook.remove()
    return streams[0]
