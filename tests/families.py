"""Tiny members of the model families that the tests train: transformers' own architectures,
a few thousand parameters."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

WIDTH, N_LAYERS, N_HEADS = 32, 2, 2
_COMMON = dict(
    hidden_size=WIDTH,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=N_HEADS,
    intermediate_size=2 * WIDTH,
    max_position_embeddings=64,
)
_GROUPED = _COMMON | dict(num_key_value_heads=1)
_GPT = dict(n_embd=WIDTH, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=64)
_NO_DROPOUT = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)

# Family as people call it: model_type, and the settings that make it tiny.
FAMILIES: dict[str, tuple[str, dict]] = {
    "GPT-2": ("gpt2", _GPT | _NO_DROPOUT),
    "GPT-Neo": (
        "gpt_neo",
        dict(
            hidden_size=WIDTH,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=64,
            window_size=32,
            embed_dropout=0.0,
            attention_dropout=0.0,
            resid_dropout=0.0,
        ),
    ),
    "GPT-J": ("gptj", _GPT | _NO_DROPOUT | dict(rotary_dim=8)),
    "GPT-NeoX": ("gpt_neox", _COMMON),
    "GPTBigCode": ("gpt_bigcode", _GPT | _NO_DROPOUT),
    "CodeGen": ("codegen", _GPT | _NO_DROPOUT | dict(n_head=4, rotary_dim=8)),
    "OPT": (
        "opt",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=64,
            word_embed_proj_dim=WIDTH,
            max_position_embeddings=64,
            dropout=0.0,
        ),
    ),
    "BLOOM": (
        "bloom",
        dict(hidden_size=WIDTH, n_layer=2, n_head=2, hidden_dropout=0.0, attention_dropout=0.0),
    ),
    "Falcon": (
        "falcon",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        ),
    ),
    "MPT": ("mpt", dict(d_model=WIDTH, n_layers=2, n_heads=2, expansion_ratio=2, max_seq_len=64)),
    "Llama": ("llama", _GROUPED),
    "Mistral": ("mistral", _GROUPED | dict(sliding_window=32)),
    "Mixtral": ("mixtral", _GROUPED | dict(num_local_experts=2, num_experts_per_tok=1)),
    "Qwen2": ("qwen2", _GROUPED),
    "Qwen3": ("qwen3", _GROUPED | dict(head_dim=16)),
    "Qwen3-MoE": (
        "qwen3_moe",
        _GROUPED | dict(head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32),
    ),
    "Gemma": ("gemma", _GROUPED | dict(head_dim=16)),
    "Gemma 2": ("gemma2", _GROUPED | dict(head_dim=16, sliding_window=32)),
    "Gemma 3": ("gemma3_text", _GROUPED | dict(head_dim=16, sliding_window=32)),
    "Phi": ("phi", _COMMON | dict(attention_dropout=0.0)),
    "Phi-3": ("phi3", _GROUPED | dict(pad_token_id=0)),
    "OLMo": ("olmo", _GROUPED),
    "OLMo 2": ("olmo2", _GROUPED),
    "OLMoE": ("olmoe", _GROUPED | dict(num_experts=2, num_experts_per_tok=1)),
    "StableLM": ("stablelm", _GROUPED),
    "StarCoder 2": ("starcoder2", _GROUPED),
    "Granite": ("granite", _GROUPED),
    "Cohere": ("cohere", _GROUPED | dict(logit_scale=1.0)),
    "Nemotron": ("nemotron", _GROUPED),
    "SmolLM3": ("smollm3", _GROUPED | dict(pad_token_id=0)),
    "GPT-OSS": ("gpt_oss", _GROUPED | dict(head_dim=16, num_local_experts=2, num_experts_per_tok=1)),
    "DeepSeek-V3": (
        "deepseek_v3",
        _COMMON
        | dict(
            num_key_value_heads=2,
            n_routed_experts=2,
            num_experts_per_tok=1,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=32,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=16,
        ),
    ),
    "XGLM": (
        "xglm",
        dict(
            d_model=WIDTH,
            num_layers=2,
            attention_heads=2,
            ffn_dim=64,
            max_position_embeddings=64,
            dropout=0.0,
            attention_dropout=0.0,
        ),
    ),
    "BioGPT": (
        "biogpt",
        _COMMON | dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layerdrop=0.0),
    ),
    "Mamba": ("mamba", dict(hidden_size=WIDTH, num_hidden_layers=2, state_size=8)),
    "Mamba-2": (
        "mamba2",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            state_size=8,
            num_heads=4,
            head_dim=16,
            n_groups=1,
            chunk_size=8,
        ),
    ),
    "Falcon-Mamba": ("falcon_mamba", dict(hidden_size=WIDTH, num_hidden_layers=2, state_size=8)),
    "RecurrentGemma": (
        "recurrent_gemma",
        _GROUPED | dict(lru_width=32, attention_window_size=32, block_types=["recurrent", "attention"]),
    ),
    "Jamba": (
        "jamba",
        _GROUPED
        | dict(
            num_experts=2,
            num_experts_per_tok=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
            attn_layer_period=2,
            attn_layer_offset=1,
        ),
    ),
    "RWKV": (
        "rwkv",
        dict(hidden_size=WIDTH, num_hidden_layers=2, attention_hidden_size=WIDTH, intermediate_size=64),
    ),
    "xLSTM": ("xlstm", dict(hidden_size=WIDTH, num_hidden_layers=2, num_heads=2)),
    "CTRL": (
        "ctrl",
        dict(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, dff=64, embd_pdrop=0.0, resid_pdrop=0.0),
    ),
    "XLNet": ("xlnet", dict(d_model=WIDTH, n_layer=2, n_head=2, d_inner=64, dropout=0.0)),
    "BERT, as decoder": (
        "bert",
        _COMMON | dict(is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    ),
    "BERT": ("bert", _COMMON),
}


def tiny_config(family: str, vocab_size: int) -> PretrainedConfig:
    """Return the family's config, a few thousand parameters large."""
    model_type, settings = FAMILIES[family]
    special = dict(bos_token_id=0, eos_token_id=1, pad_token_id=0)
    return AutoConfig.for_model(model_type, vocab_size=vocab_size, **special | settings)


def tiny_model(family: str, vocab_size: int) -> PreTrainedModel:
    """Return an untrained causal language model of the family."""
    return AutoModelForCausalLM.from_config(tiny_config(family, vocab_size))
