"""A small Llama in a GGUF file, as llama.cpp's converter lays it out, and the model that it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

N_HEADS = 2
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(path: Path, tokenizer_file: Path) -> LlamaForCausalLM:
    """Write a fresh Llama of one layer with the vocabulary of a byte-level tokenizer; return it."""
    import gguf

    about = json.loads(tokenizer_file.read_text())["model"]
    tokens = sorted(about["vocab"], key=about["vocab"].get)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS, max_position_embeddings=64,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in about["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_rename(name), _permute(name, weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _rename(name: str) -> str:
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in top:
        return top[name]
    _, _, layer, *middle, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.weight"


def _permute(name: str, weight: np.ndarray) -> np.ndarray:
    """Put the rows of queries and keys in the order in which llama.cpp turns them."""
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    shape = weight.shape
    return weight.reshape(N_HEADS, 2, shape[0] // N_HEADS // 2, -1).swapaxes(1, 2).reshape(shape)


def answer(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits after a few tokens."""
    with torch.no_grad():
        return model(torch.arange(1, 9)[None]).logits
