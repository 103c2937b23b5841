"""A small language model that the tests pretrain themselves: python -m tests.small_lm FOLDER [STEPS]

Its text is the language reference that every Python carries (`pydoc_data.topics`), 0.7 MB of English with
code, cut by a byte-level BPE tokenizer of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

END = "<|endoftext|>"
N_PLACES = 64


def make_tokenizer(vocab_size: int = 1500) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on the text."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(topics.values(), vocab_size=vocab_size, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=N_PLACES,
    )


def pretrain(folder: Path, *, steps: int = 60, width: int = 64, vocab_size: int = 1500) -> list[float]:
    """Train a GPT-2 of 2 layers on the text, save it with its tokenizer, and return its logged losses."""
    set_seed(0)
    tokenizer = make_tokenizer(vocab_size)
    ids = torch.tensor(tokenizer.encode("\n\n".join(topics.values()), verbose=False))
    blocks = ids[: len(ids) // N_PLACES * N_PLACES].view(-1, N_PLACES)
    rows = [{"input_ids": block, "labels": block} for block in blocks]
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=N_PLACES, n_embd=width, n_layer=2, n_head=4, bos_token_id=end,
        eos_token_id=end, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    args = TrainingArguments(
        str(folder / "scratch"),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=max(1, steps // 10),
    )
    trainer = Trainer(
        GPT2LMHeadModel(config),
        args,
        train_dataset=rows,
        data_collator=default_data_collator,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(folder))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(pretrain(Path(sys.argv[1]), steps=int(sys.argv[2]) if len(sys.argv) > 2 else 60))
