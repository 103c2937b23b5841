"""Checkpoints in a GGUF file, unpacked once into an ordinary one, which everything else then reads.

transformers reads a GGUF file for inference: what it loads says that it is quantised, and can neither be
saved nor adapted. Unpacked, its weights are plain float32 numbers (of a quantised file, what it stands for).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_icl.banks.cache import CACHE_VARIABLE, find_cache_folder
from hf_icl.errors import BankError
from hf_icl.files import fill_whole
from hf_icl.local import find_path

SUFFIX = ".gguf"
MAGIC = b"GGUF"
CONFIG_FILE = "config.json"


def find_gguf(source: str) -> Path | None:
    """Return the GGUF file that a source means: itself, or the only one of a folder without a config.json.

    Args:
        source: A folder, a file, or a name on the Hub.

    Returns:
        The file; None if the source is something else.

    Raises:
        BankError: If a folder holds several, or the file is none.

    >>> find_gguf("EleutherAI/pythia-70m") is None
    True
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / CONFIG_FILE).exists():
            return None
        found = sorted(path.glob(f"*{SUFFIX}"))
        if len(found) > 1:
            names = ", ".join(one.name for one in found[:5])
            raise BankError(f"{source}: holds {len(found)} GGUF files ({names}). Name one of them.")
        path = found[0] if found else path
    if path.suffix != SUFFIX or not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BankError(f"{path}: is no GGUF file, whatever its name says. Fetch it again.")
    return path


def unpack(source: str) -> str:
    """Return where the checkpoint of a source can be read by `from_pretrained`: the source itself, or of a
    GGUF file the folder of the cache that it is unpacked into, four bytes for each of its weights.

    Raises:
        BankError: If the file cannot be read, or the package gguf is missing.
        RunError: If it is the hidden name of a folder that is not known here.
        FileError: If there is no room for it.
    """
    find_path(source)
    if (path := find_gguf(source)) is None:
        return source
    about = path.resolve().stat()
    key = repr((str(path.resolve()), about.st_size, about.st_mtime_ns))
    place = find_cache_folder() / "gguf" / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder = place / Path(source).expanduser().resolve().name  # as `hide_path` calls the source
    if not (folder / CONFIG_FILE).exists():
        way_out = f"Make room, or set {CACHE_VARIABLE} to a folder that can be written."
        with fill_whole(folder, last=CONFIG_FILE, way_out=way_out) as draft:
            _unpack(path, draft)
    return str(folder)


def _unpack(path: Path, folder: Path) -> None:
    where, options = path.parent, {"gguf_file": path.name, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(where, **options)
        packed = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except ImportError as error:
        raise BankError(
            f"{path}: reading GGUF needs the package gguf. Install it: pip install 'hf-icl[gguf]'."
        ) from error
    except Exception as error:  # a file decides what it makes transformers run into
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise BankError(
            f"{path}: transformers cannot read it ({text}). Take another quantisation, or a checkpoint in "
            "safetensors."
        ) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # what is unpacked is not quantised any more
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
