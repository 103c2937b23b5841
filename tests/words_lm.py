"""A language model of words: a byte-level tokenizer that knows some sixty, each with a space before it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = (
    "apple bird cloud door eagle fish grass house island jacket knife lemon mouse night ocean paper queen "
    "river stone table uncle voice water yellow zebra anchor bottle candle dragon engine forest guitar "
    "hammer insect jungle kitten ladder mirror needle orange pencil rabbit saddle temple violin window "
    "winter bridge carpet desert finger garden helmet ticket marble pepper rocket silver tunnel valley"
).split()
END = "<|end|>"
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, start: bool = False, chat: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Return the tokenizer; with `start` it puts its end token before every text."""
    bpe = ByteLevelBPETokenizer()
    text = [f" {word} {word.capitalize()}" for word in WORDS] * 4 + ["日本"]
    roles = ["<|user|>", "<|assistant|>", "<|system|>"]
    options = {"vocab_size": 2000, "min_frequency": 4, "show_progress": False}
    bpe.train_from_iterator(text, special_tokens=[END, *roles], **options)
    if start:
        bpe._tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END)
    tokenizer.chat_template = chat
    return tokenizer


def save_model(folder: Path, *, n_places: int = 256, **options) -> Path:
    """Save a fresh Llama of one layer with the tokenizer; return the folder."""
    tokenizer = make_tokenizer(**options)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=n_places, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
