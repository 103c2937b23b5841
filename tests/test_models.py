"""The native backbone, the in-context learner around three kinds of backbone, and the named groups."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    T5Config,
    Trainer,
    TrainingArguments,
    ViTConfig,
)

from hf_icl.errors import ConfigError
from hf_icl.models import (
    GROUPS,
    CausalTransformerConfig,
    CausalTransformerModel,
    ICLConfig,
    ICLModel,
    parameter_groups,
)
from hf_icl.models.transformer import make_sinusoidal_table, rotate

N_LABELS, N_CONTEXT, DIM, BATCH = 6, 3, 5, 4
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": 7}
LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "vocab_size": 7,
}
NATIVE = {"n_layers": 2, "d_model": 16, "n_heads": 2, "max_places": 16}


def make_backbone(kind):
    if kind == "gpt2":
        tokens = dict(bos_token_id=0, eos_token_id=0)  # within its vocabulary, else transformers warns, once
        return GPT2Config(**GPT2, **tokens, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    return LlamaConfig(**LLAMA) if kind == "llama" else CausalTransformerConfig(**NATIVE, positions=kind)


POSITIONS = ("learned", "sinusoidal", "rotary", "none")
KINDS = (*POSITIONS, "gpt2", "llama")


def make_model(backbone="learned", seed=0, **settings):
    torch.manual_seed(seed)
    backbone = make_backbone(backbone) if isinstance(backbone, str) else backbone
    sizes = {"n_labels": N_LABELS, "n_context": N_CONTEXT, "exemplar_shape": (DIM,)}
    return ICLModel.from_backbone(backbone, **(sizes | settings))


def make_batch(batch=BATCH, n_context=N_CONTEXT, seed=0, shape=(DIM,)):
    random = torch.Generator().manual_seed(seed)
    return {
        "exemplars": torch.randn(batch, n_context + 1, *shape, generator=random),
        "context_answers": torch.randint(N_LABELS, (batch, n_context), generator=random),
        "labels": torch.randint(N_LABELS, (batch,), generator=random),
    }


# ---- The native backbone


def test_sinusoidal_table_follows_the_papers_formula():
    table = make_sinusoidal_table(17, 64, max_time=30.0)
    for place in (0, 1, 16):
        for i in (0, 5, 31):
            angle = place / 30.0 ** (2 * i / 64)
            assert table[place, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 32 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_rotation_leaves_products_that_depend_on_the_distance_alone():
    table = make_sinusoidal_table(12, 8, max_time=10_000.0)
    query, key = torch.randn(8), torch.randn(8)
    products = rotate(query.expand(12, 8), table) @ rotate(key.expand(12, 8), table).T
    for distance in range(-11, 12):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products.diagonal(0)[0].item() == pytest.approx((query @ key).item(), abs=1e-5)
    assert products[0].std() > 0.1


def test_attention_worked_by_hand():
    """One head of width 2; q = ln(3) * sqrt(2) * (x_0, 0), k = v = x:
    the weight of place 0 seen from 1 is 1/4."""
    config = CausalTransformerConfig(
        n_layers=1, d_model=2, n_heads=1, mlp_ratio=None, positions="none", layer_norm=False
    )
    model = CausalTransformerModel(config)
    attention = model.blocks[0].attention
    with torch.no_grad():
        attention.qkv.bias.zero_()
        attention.qkv.weight.copy_(torch.cat([torch.zeros(2, 2), torch.eye(2), torch.eye(2)]))
        attention.qkv.weight[0, 0] = math.log(3) * math.sqrt(2)
        attention.out.weight.copy_(torch.eye(2))
        attention.out.bias.zero_()
    x = torch.tensor([[[0.0, 8.0], [1.0, 4.0]]])
    expected = torch.tensor([[[0.0, 16.0], [1.75, 9.0]]])  # x_1 + x_0 / 4 + 3 x_1 / 4
    torch.testing.assert_close(model(x).last_hidden_state, expected)
    output = model(x, output_attentions=True)
    torch.testing.assert_close(output.last_hidden_state, expected)
    torch.testing.assert_close(output.attentions[0], torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]]))
    torch.testing.assert_close(model(x, last_place_only=True).last_hidden_state, expected[:, 1:])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("mlp_ratio", (4, None))
def test_three_ways_through_the_backbone_agree(positions, mlp_ratio):
    model = CausalTransformerModel(
        CausalTransformerConfig(**NATIVE, positions=positions, mlp_ratio=mlp_ratio)
    )
    x = torch.randn(3, 7, 16)
    fused, plain = model(x), model(x, output_attentions=True, output_hidden_states=True)
    last = model(x, last_place_only=True).last_hidden_state
    torch.testing.assert_close(fused.last_hidden_state, plain.last_hidden_state)
    torch.testing.assert_close(last, fused.last_hidden_state[:, -1:])
    assert fused.attentions is None and fused.hidden_states is None
    assert len(plain.hidden_states) == 3 and plain.hidden_states[2] is plain.last_hidden_state
    for weights in plain.attentions:
        assert weights.shape == (3, 2, 7, 7)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 7))
        assert weights.triu(1).abs().max() == 0


def test_gradients_agree_between_the_last_place_alone_and_all_places():
    model = CausalTransformerModel(CausalTransformerConfig(**NATIVE, positions="rotary"))
    x = torch.randn(3, 7, 16)
    model(x).last_hidden_state[:, -1].square().sum().backward()
    full = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x, last_place_only=True).last_hidden_state.square().sum().backward()
    for parameter, gradient in zip(model.parameters(), full, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_backbone_matches_torchs_own_encoder_layer():
    """Pre-LN block against nn.TransformerEncoderLayer(norm_first=True) with the same weights."""
    model = CausalTransformerModel(CausalTransformerConfig(**NATIVE | {"n_layers": 1}, positions="none"))
    block = model.blocks[0]
    twin = torch.nn.TransformerEncoderLayer(16, 2, 64, 0.0, F.gelu, batch_first=True, norm_first=True)
    twin.self_attn.in_proj_weight, twin.self_attn.in_proj_bias = (
        block.attention.qkv.weight,
        block.attention.qkv.bias,
    )
    twin.self_attn.out_proj, twin.norm1, twin.norm2 = (
        block.attention.out,
        block.attention_norm,
        block.mlp_norm,
    )
    twin.linear1, twin.linear2 = block.mlp[0], block.mlp[2]
    x = torch.randn(3, 7, 16)
    expected = model.final_norm(twin(x, src_mask=torch.nn.Transformer.generate_square_subsequent_mask(7)))
    torch.testing.assert_close(model(x).last_hidden_state, expected)


def test_weights_start_as_torch_starts_them():
    model = ICLModel(ICLConfig(n_labels=2000, backbone=CausalTransformerConfig(max_places=2000)))
    named = dict(model.named_parameters())
    assert named["backbone.positions.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert named["label_embedding.weight"].std().item() == pytest.approx(0.3, rel=0.02)
    linear = [
        name
        for name in named
        if named[name].ndim == 2 and "positions" not in name and "embedding" not in name
    ]
    assert len(linear) == 2 + 2 * 4
    for name in linear:
        bound = named[name].shape[1] ** -0.5  # nn.Linear draws from U(-1/sqrt(fan in), 1/sqrt(fan in))
        assert 0.98 * bound < named[name].abs().max() <= bound, name
        assert named[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        if name.removesuffix("weight") + "bias" in named:
            assert named[name.removesuffix("weight") + "bias"].abs().max() > 0.5 * bound


# ---- Causality, by gradients


@pytest.mark.parametrize("places", ("interleaved", "paired"))
@pytest.mark.parametrize("kind", KINDS)
def test_a_place_sees_itself_and_earlier_places_only(kind, places):
    model = make_model(kind, places=places).eval()
    batch = make_batch()
    inputs = model.embed(batch["exemplars"], batch["context_answers"]).detach().requires_grad_()
    n_places = 2 * N_CONTEXT + 1 if places == "interleaved" else N_CONTEXT + 1
    assert inputs.shape == (BATCH, n_places, 16)
    hidden = model.backbone(inputs_embeds=inputs).last_hidden_state
    for place in range(n_places):
        (gradient,) = torch.autograd.grad(hidden[:, place, 0].sum(), inputs, retain_graph=True)
        size = gradient.abs().amax(dim=-1)  # (batch, places)
        assert (size[:, place + 1 :] == 0).all()
        assert (size[:, : place + 1] > 0).all()


@pytest.mark.parametrize("places", ("interleaved", "paired"))
@pytest.mark.parametrize("kind", ("learned", "gpt2", "llama"))
def test_every_exemplar_and_label_reaches_the_logits(kind, places):
    model = make_model(kind, places=places)
    batch = make_batch()
    exemplars = batch["exemplars"].requires_grad_()
    model(**batch).loss.backward()
    assert (exemplars.grad.abs().amax(-1) > 0).all()
    with torch.no_grad():
        logits = model(**batch).logits
        for place in range(N_CONTEXT):
            changed = batch["context_answers"].clone()
            changed[:, place] = (changed[:, place] + 1) % N_LABELS
            moved = model(batch["exemplars"], changed).logits
            assert ((moved - logits).abs().amax(-1) > 1e-6).all()


def test_interleaved_and_paired_places_hold_what_they_should():
    batch = make_batch()
    for places in ("interleaved", "paired"):
        model = make_model(places=places)
        embedded = model.embed(batch["exemplars"], batch["context_answers"])
        for b in range(BATCH):
            x = model.exemplar_encoder(batch["exemplars"])[b]
            l = model.label_embedding.weight[batch["context_answers"][b]]  # noqa: E741
            rows = [x[0], l[0], x[1], l[1], x[2], l[2], x[3]]
            rows = rows if places == "interleaved" else [x[0] + l[0], x[1] + l[1], x[2] + l[2], x[3]]
            torch.testing.assert_close(embedded[b], torch.stack(rows))


# ---- Loss


def test_loss_is_the_cross_entropy_of_the_querys_label():
    model, batch = make_model(), make_batch()
    output = model(**batch)
    shares = output.logits.detach().exp() / output.logits.detach().exp().sum(dim=1, keepdim=True)
    by_hand = -sum(math.log(shares[b, batch["labels"][b]].item()) for b in range(BATCH))
    assert output.loss.item() == pytest.approx(by_hand / BATCH, rel=1e-5)
    assert model(batch["exemplars"], batch["context_answers"]).loss is None
    parts = [
        model(**{k: v[i : i + 1] for k, v in batch.items()}, num_items_in_batch=BATCH).loss
        for i in range(BATCH)
    ]
    assert sum(parts).item() == pytest.approx(output.loss.item(), rel=1e-5)
    ignored = model(**batch | {"labels": batch["labels"].index_fill(0, torch.tensor([1]), -100)}).loss
    kept = model(**{k: v[[0, 2, 3]] for k, v in batch.items()}).loss
    torch.testing.assert_close(ignored, kept)


STEP_OPTIONS = [
    *({"backbone": kind, "places": places} for kind in KINDS for places in ("interleaved", "paired")),
    {"backbone": CausalTransformerConfig(**NATIVE, mlp_ratio=None)},
    {"backbone": CausalTransformerConfig(**NATIVE, layer_norm=False)},
    {"tie_labels": True},
    {"encoder": "embedding", "n_ids": 9, "exemplar_shape": ()},
    {"encoder": "resnet", "exemplar_shape": (12, 12)},
    {"encoder": "resnet", "exemplar_shape": (3, 12, 12)},
    {"encoder": "linear", "exemplar_shape": (2, 3)},
]


@pytest.mark.parametrize("options", STEP_OPTIONS, ids=str)
def test_every_option_takes_a_step_that_lowers_the_loss(options):
    model = make_model(**options)
    batch = make_batch(shape=options.get("exemplar_shape", (DIM,)))
    if options.get("encoder") == "embedding":
        batch["exemplars"] = torch.randint(9, (BATCH, N_CONTEXT + 1))
    loss = model(**batch).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert model(**batch).loss < loss


# ---- Saving, loading, transformers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tie_labels", (False, True))
def test_a_saved_model_comes_back_to_the_bit(kind, tie_labels, tmp_path, caplog):
    model = make_model(kind, tie_labels=tie_labels, places="interleaved").eval()
    model.save_pretrained(tmp_path)
    batch = make_batch()
    for loader in (ICLModel, AutoModel):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is ICLModel and type(loaded.backbone) is type(model.backbone)
        assert loaded.config.exemplar_shape == (DIM,)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        assert (loaded.head.weight is loaded.label_embedding.weight) == tie_labels
        assert parameter_groups(loaded) == parameter_groups(model)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ICLConfig and type(config.backbone) is type(model.config.backbone)
    for name, value in make_backbone(kind).to_dict().items():
        assert name in ("architectures", "dtype") or config.backbone.to_dict()[name] == value, name
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_the_backbone_alone_saves_and_loads(tmp_path):
    for positions in POSITIONS:
        model = CausalTransformerModel(CausalTransformerConfig(**NATIVE, positions=positions))
        model.save_pretrained(tmp_path / positions)
        x = torch.randn(2, 5, 16)
        loaded = AutoModel.from_pretrained(tmp_path / positions)
        assert torch.equal(loaded(x).last_hidden_state, model(x).last_hidden_state)


def test_a_ready_backbone_keeps_its_weights():
    torch.manual_seed(0)
    for ready in (GPT2Model(make_backbone("gpt2")), GPT2LMHeadModel(make_backbone("gpt2"))):
        before = {name: tensor.clone() for name, tensor in ready.base_model.state_dict().items()}
        del before["wte.weight"]
        model = make_model(ready)
        assert list(before) == list(model.backbone.state_dict())
        assert isinstance(model.backbone, GPT2Model)
        for name, tensor in model.backbone.state_dict().items():
            assert torch.equal(tensor, before[name]), name
    half = make_model(GPT2Model(make_backbone("gpt2")).bfloat16())
    output = half(**make_batch())
    assert output.logits.dtype == torch.float32 and output.loss.isfinite()


def test_a_backbone_brings_no_vocabulary(tmp_path):
    model = make_model(GPT2Config(**GPT2 | {"vocab_size": 50257}))
    assert count(model) < 10_000 and not [name for name in model.state_dict() if "wte" in name]
    model.save_pretrained(tmp_path)
    assert count(ICLModel.from_pretrained(tmp_path)) == count(model)


@pytest.mark.parametrize("kind", ("learned", "gpt2", "llama"))
def test_attention_weights_and_hidden_states_per_layer(kind):
    model, batch = make_model(kind).eval(), make_batch()
    if kind != "learned":
        with pytest.raises(ConfigError, match="set_attn_implementation"):
            model(**batch, output_attentions=True)
        model.backbone.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in output.attentions] == [(BATCH, 2, N_CONTEXT + 1, N_CONTEXT + 1)] * 2
    assert len(output.hidden_states) == 3
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(BATCH, 2, N_CONTEXT + 1))
    torch.testing.assert_close(output.logits, model(**batch).logits)


# ---- A stock Trainer


def train(tmp_path, name, batch_size, accumulate, rows, **options):
    model = make_model(seed=3)
    args = TrainingArguments(
        output_dir=tmp_path / name,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        max_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        optim="sgd",
        dataloader_pin_memory=False,
        **options,
    )
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return trainer, losses


def test_accumulated_batches_train_like_one_big_batch(tmp_path):
    batch = make_batch(batch=192)
    rows = [{name: tensor[i] for name, tensor in batch.items()} for i in range(192)]
    one, losses_one = train(tmp_path, "one", 64, 1, rows)
    two, losses_two = train(tmp_path, "two", 32, 2, rows)
    assert len(losses_one) == 3
    assert losses_two == pytest.approx(losses_one, rel=1e-5)
    for name, parameter in one.model.named_parameters():
        torch.testing.assert_close(parameter, two.model.get_parameter(name), msg=name)
    predicted = one.predict(rows[:10])
    assert predicted.predictions.shape == (10, N_LABELS)
    assert predicted.label_ids.tolist() == batch["labels"][:10].tolist()
    one.save_model(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    one.model.eval()
    assert torch.equal(loaded(**make_batch()).logits, one.model(**make_batch()).logits)


def test_uneven_batches_of_one_step_weigh_by_their_sequences(tmp_path):
    batch = make_batch(batch=48)
    rows = [{name: tensor[i] for name, tensor in batch.items()} for i in range(48)]
    one, losses_one = train(tmp_path, "whole", 48, 1, rows)
    two, losses_two = train(tmp_path, "uneven", 32, 2, rows)  # 32 + 16 sequences a step
    assert losses_two == pytest.approx(losses_one, rel=1e-5)
    for name, parameter in one.model.named_parameters():
        torch.testing.assert_close(parameter, two.model.get_parameter(name), msg=name)


def test_label_smoothing_of_the_trainer_works(tmp_path):
    batch = make_batch(batch=32)
    rows = [{name: tensor[i] for name, tensor in batch.items()} for i in range(32)]
    _, losses = train(tmp_path, "smooth", 32, 1, rows, label_smoothing_factor=0.1)
    assert losses[-1] < losses[0]


# ---- Named groups and sizes


@pytest.mark.parametrize("tie_labels", (False, True))
@pytest.mark.parametrize("kind", ("learned", "gpt2", "llama"))
def test_groups_hold_every_parameter_once(kind, tie_labels):
    model = make_model(kind, tie_labels=tie_labels)
    groups = parameter_groups(model)
    assert tuple(groups) == GROUPS
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert groups["other"] == []
    assert "label_embedding.weight" in groups["embeddings"]
    assert groups["head"] == ([] if tie_labels else ["head.weight", "head.bias"])
    assert groups["encoder"] == ["exemplar_encoder.weight", "exemplar_encoder.bias"]
    per_layer = {"learned": (4, 4), "gpt2": (4, 4), "llama": (4, 3)}[kind]
    assert (len(groups["attention"]), len(groups["mlp"])) == (2 * per_layer[0], 2 * per_layer[1])
    assert all("norm" in name or "ln_" in name for name in groups["norm"])
    assert len(groups["norm"]) == {"learned": 10, "gpt2": 10, "llama": 5}[kind]
    assert len(groups["embeddings"]) == {"learned": 2, "gpt2": 2, "llama": 1}[kind]


def test_other_decoders_work_and_fall_into_the_groups():
    neox = GPTNeoXConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=7
    )
    opt = OPTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16
    )
    for backbone, n_mlp, n_attention in ((neox, 4, 4), (opt, 4, 8)):
        model = make_model(backbone)
        model(**make_batch()).loss.backward()
        groups = parameter_groups(model)
        assert (len(groups["mlp"]), len(groups["attention"]), groups["other"]) == (n_mlp, n_attention, [])


def test_groups_of_the_resnet_are_the_encoders():
    model = make_model(encoder="resnet", exemplar_shape=(12, 12))
    groups = parameter_groups(model)
    assert all(name.startswith("exemplar_encoder.") for name in groups["encoder"])
    assert sum(model.get_parameter(name).numel() for name in groups["encoder"]) == sum(
        parameter.numel() for parameter in model.exemplar_encoder.parameters()
    )


def make_paper_model(**settings):
    backbone = CausalTransformerConfig(n_layers=12, positions="sinusoidal", max_time=30)
    return ICLModel(ICLConfig(n_context=8, places="interleaved", backbone=backbone, **settings))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_papers_model_has_the_published_size():
    """Published: 0.83 to 0.89 M for the 12-layer model (sources differ).

    By hand: 12 layers of 12 d^2 + 13 d, two label tables of 1,600 x 64, a bias, a final norm: 806,336.
    """
    model = make_paper_model(n_labels=1600, encoder="resnet", exemplar_shape=(105, 105))
    without_encoder = count(model) - count(model.exemplar_encoder)
    assert without_encoder == 12 * (12 * 64**2 + 13 * 64) + 2 * 1600 * 64 + 1600 + 2 * 64 == 806_336
    assert 0.82e6 < count(model) < 0.89e6
    tied = make_paper_model(n_labels=1600, encoder="resnet", exemplar_shape=(105, 105), tie_labels=True)
    assert count(tied) == count(model) - 1600 * 64 - 1600


# ---- Bad input

BAD_BACKBONES = [
    ({"n_layers": 0}, "n_layers = 0"),
    ({"n_heads": 2.5}, "n_heads = 2.5"),
    ({"n_heads": True}, "n_heads = True: must be a number"),
    ({"d_model": 60}, "Take 56 or 64"),
    ({"d_model": 3, "n_heads": 8}, "Take 8"),
    ({"mlp_ratio": -1}, "mlp_ratio = -1"),
    ({"positions": "absolute"}, "'learned', 'sinusoidal', 'rotary' or 'none'"),
    ({"positions": "rotary", "d_model": 24}, "even head width"),
    ({"positions": "sinusoidal", "d_model": 3, "n_heads": 3}, "even width"),
    ({"mlp_ratio": "four"}, "mlp_ratio = 'four'"),
    ({"layer_norm": "no"}, "layer_norm = 'no'"),
    ({"max_time": 1}, "max_time = 1"),
    ({"max_places": 0}, "max_places = 0"),
    ({"n_layer": 2}, "Did you mean n_layers?"),
    ({"hidden_size": 32}, "Did you mean d_model?"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_BACKBONES)
def test_bad_backbone_settings_are_told(settings, message):
    with pytest.raises(ConfigError) as error:
        CausalTransformerConfig(**settings)
    assert message in str(error.value)


BAD_LEARNERS = [
    ({"n_labels": 1}, "n_labels = 1"),
    ({"n_context": 0}, "n_context = 0"),
    ({"num_labels": 5}, "Did you mean n_labels?"),
    ({"encoder": "conv"}, "'linear', 'embedding' or 'resnet'"),
    ({"places": "pairs"}, "'interleaved' or 'paired'"),
    ({"label_init_std": -1.0}, "label_init_std = -1.0"),
    ({"exemplar_shape": ()}, "linear exemplars need a size"),
    ({"label_init_std": "small"}, "label_init_std = 'small'"),
    ({"tie_labels": 2}, "tie_labels = 2"),
    ({"exemplar_shape": 64}, "exemplar_shape = 64"),
    ({"exemplar_shape": (3, 0)}, "exemplar_shape.1 = 0: should be greater than or equal to 1"),
    ({"n_ids": 3}, "n_ids = 3"),
    ({"encoder": "embedding", "exemplar_shape": ()}, "need its number of rows"),
    ({"encoder": "embedding", "n_ids": 4}, "has shape ()"),
    ({"encoder": "resnet"}, "drawings have shape"),
    (
        {"encoder": "resnet", "exemplar_shape": (8, 8), "backbone": GPT2Config(n_embd=6, n_head=2)},
        "multiple of 4",
    ),
    ({"n_context": 64}, "65 paired places, and the backbone's positions reach to 64"),
    ({"backbone": {"n_embd": 4}}, "model_type"),
    ({"backbone": {"model_type": "no-such"}}, "no-such"),
    ({"backbone": {"model_type": "hf_icl_transformer", "n_heads": 0}}, "backbone.n_heads = 0"),
    ({"backbone": "gpt2"}, "model_type"),
    ({"backbone": T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)}, "encoder-decoder"),
    (
        {"backbone": ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)},
        "must take inputs_embeds",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_LEARNERS)
def test_bad_learner_settings_are_told(settings, message):
    with pytest.raises(ConfigError) as error:
        ICLModel(ICLConfig(**settings))
    assert message in str(error.value)


def test_sequences_may_be_shorter_but_not_longer_than_the_positions():
    for kind in ("learned", "gpt2", "llama"):
        model = make_model(kind)
        assert model(**make_batch(n_context=1)).logits.shape == (BATCH, N_LABELS)
        assert model(**make_batch(n_context=15)).logits.shape == (BATCH, N_LABELS)
        with pytest.raises(
            ConfigError, match="makes 17 paired places, and the backbone's positions reach to 16"
        ):
            model(**make_batch(n_context=16))
    with pytest.raises(ConfigError, match="max_places=17"):
        CausalTransformerModel(CausalTransformerConfig(**NATIVE))(torch.zeros(1, 17, 16))


def test_inputs_that_do_not_fit_are_told():
    model, batch = make_model(), make_batch()
    with pytest.raises(ConfigError, match=r"must be floats of shape \(batch, n_context \+ 1, 5\)"):
        model(torch.zeros(BATCH, N_CONTEXT + 1, DIM + 1), batch["context_answers"])
    with pytest.raises(ConfigError, match="must be floats"):
        model(batch["exemplars"].long(), batch["context_answers"])
    with pytest.raises(ConfigError, match=r"must have shape \(4, 3\)"):
        model(batch["exemplars"], torch.zeros(BATCH, N_CONTEXT + 1, dtype=torch.int64))


def test_a_bank_decides_the_sizes():
    class Bank:
        def __init__(self, kind, shape):
            self.kind, self.shape, self.n_labels, self.n_ids = kind, shape, 11, 30

    vectors = ICLModel.from_backbone(None, Bank("vectors", (7,)), n_context=2).config
    assert (vectors.encoder, vectors.n_labels, vectors.exemplar_shape, vectors.n_context) == (
        "linear",
        11,
        (7,),
        2,
    )
    assert ICLModel.from_backbone(None, Bank("ids", ())).config.n_ids == 30
    assert ICLModel.from_backbone(None, Bank("images", (12, 12))).config.encoder == "resnet"
    flat = ICLModel.from_backbone(None, Bank("images", (12, 12)), encoder="linear")
    assert flat.exemplar_encoder.weight.shape == (64, 144)


def test_scaled_exemplars_equal_a_model_without_the_scale_on_larger_exemplars():
    torch.manual_seed(0)
    plain = ICLModel.from_backbone(None, n_labels=5, n_context=4, exemplar_shape=(8,))
    scaled = ICLModel.from_backbone(None, n_labels=5, n_context=4, exemplar_shape=(8,), exemplar_scale=2.0)
    scaled.load_state_dict(plain.state_dict())
    exemplars, labels = torch.randn(3, 5, 8), torch.randint(5, (3, 4))
    assert torch.equal(scaled(exemplars, labels).logits, plain(2 * exemplars, labels).logits)
    assert not torch.equal(scaled(exemplars, labels).logits, plain(exemplars, labels).logits)
    with pytest.raises(ConfigError, match="exemplar_scale"):
        ICLModel.from_backbone(None, n_labels=5, n_context=4, exemplar_shape=(8,), exemplar_scale=0.0)
