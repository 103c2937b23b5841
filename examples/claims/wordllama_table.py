"""Make the table of tokens that the claim `vocabulary` needs, from the package wordllama.

    pip install --no-deps wordllama
    python examples/claims/wordllama_table.py
    hf-icl reproduce vocabulary

Its table, 32,000 tokens × 256, is derived from LLaMA 2's input embeddings. Written is a folder that looks
like a checkpoint: config, tokenizer and this one tensor.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import LlamaConfig


def make_table(package: Path, output: Path) -> None:
    """Write the folder; `package` is where wordllama is installed."""
    (table,) = load_file(package / "weights" / "l2_supercat_256.safetensors").values()
    output.mkdir(parents=True, exist_ok=True)
    n_tokens, width = table.shape
    config = LlamaConfig(vocab_size=n_tokens, hidden_size=width, intermediate_size=width, num_hidden_layers=1)
    config.save_pretrained(output)
    shutil.copy(package / "tokenizers" / "l2_supercat_tokenizer_config.json", output / "tokenizer.json")
    save_file({"model.embed_tokens.weight": table}, output / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the table of tokens for the claim vocabulary.")
    parser.add_argument("--package", type=Path, help="folder of wordllama; default: the installed one")
    parser.add_argument("--output", type=Path, default=Path("wordllama-table"))
    args = parser.parse_args()
    found = importlib.util.find_spec("wordllama")
    if args.package is None and (found is None or found.origin is None):
        parser.error("wordllama is not installed: pip install --no-deps wordllama")
    make_table(args.package or Path(str(found and found.origin)).parent, args.output)
    print(f"Written: {args.output}")
