"""The input embeddings of a checkpoint and nothing else of it: one tensor, from a folder or from the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from huggingface_hub import HfFileSystem, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from hf_icl.banks.bank import track
from hf_icl.banks.gguf import unpack
from hf_icl.errors import BankError
from hf_icl.reading import parse_json, read_json

# configs, tokenizers, chat templates, the index of shards
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
READ_BYTES = 1 << 26  # of one request: what has to be asked for again when a connection breaks
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
HUB_ERRORS = (OSError, *HfHubHTTPError.__bases__)  # the second: whatever the hub library's http client raises


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose small files are on disk; weights are looked for there, then on the Hub.

    Attributes:
        source: Folder or Hub name, as it was given.
        folder: Where the small files are.
        commit: Commit on the Hub; None for a folder.
    """

    source: str
    folder: Path
    commit: str | None = None

    @property
    def identity(self) -> str:
        """What changes when the checkpoint does: commit, or names, sizes and times of the files."""
        if self.commit is not None:
            return f"{self.source}@{self.commit}"
        files = sorted(path for path in self.folder.iterdir() if path.suffix != ".md" and path.is_file())
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def load_config(self) -> PretrainedConfig:
        """Return the model's config.

        Raises:
            BankError: If transformers does not know the model; code that comes with a checkpoint is not run.
        """
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise BankError(
                f"{self.source}: transformers cannot read its config ({_shorten(error)}). Take a checkpoint "
                "whose model class is part of transformers; code that comes with a checkpoint is never run."
            ) from error

    def read_embeddings(self, *, progress: bool = False) -> Tensor:
        """Read the table of input embeddings (V, D) in the type that it is stored in;
        of no other tensor a byte.

        Raises:
            BankError: If there is no such table in safetensors files, or it is quantised.
        """
        names = name_embeddings(self.load_config(), self.source)
        index = self.folder / constants.SAFETENSORS_INDEX_FILE
        shard = constants.SAFETENSORS_SINGLE_FILE
        try:
            if index.exists() and not (self.folder / shard).exists():
                shards = read_json(index)["weight_map"]
                shard = shards[choose_name(shards, names, self.source)]
            with self._open_shard(shard) as file:
                return file.read(choose_name(file.keys, names, self.source), progress)
        except FileNotFoundError as error:
            rule = f"{shard} is missing" if index.exists() else "no safetensors weights"
            raise BankError(
                f"{self.source}: {rule}. Pickled weights (.bin, .pt) are never loaded: save the model again "
                "with save_pretrained, which writes safetensors."
            ) from error
        except BankError:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError, *HUB_ERRORS) as error:
            raise BankError(
                f"{self.source}: {shard} cannot be read ({_shorten(error)}). Check the file; on the Hub, "
                "your connection."
            ) from error

    @contextlib.contextmanager
    def _open_shard(self, name: str) -> Iterator[_LocalFile | _HubFile]:
        if self.commit is None or (self.folder / name).exists():
            with safe_open(self.folder / name, framework="pt") as file:
                yield _LocalFile(self.source, file)
        else:
            path = f"{self.source}@{self.commit}/{name}"
            with HfFileSystem().open(path, "rb", cache_type="none") as file:
                yield _HubFile(self.source, file)


class _LocalFile:
    """A safetensors file on disk, mapped into memory."""

    def __init__(self, source: str, file: Any) -> None:
        self.source, self._file, self.keys = source, file, list(file.keys())

    def read(self, name: str, progress: bool) -> Tensor:
        part = self._file.get_slice(name)
        check_table(name, part.get_dtype(), part.get_shape(), self.source)
        return self._file.get_tensor(name)


class _HubFile:
    """A safetensors file on the Hub, read in ranges: its header, then the bytes of one tensor.

    The layout is https://huggingface.co/docs/safetensors: eight bytes for the length of the header, the
    header as JSON, then all tensors, at offsets counted from the header's end.
    """

    def __init__(self, source: str, file: IO[bytes]) -> None:
        self.source, self._file = source, file
        n_header = int.from_bytes(self._read(8), "little")
        if n_header > MAX_HEADER_BYTES:
            raise ValueError("its header is no safetensors header")
        self._start = 8 + n_header
        self._tensors = parse_json(self._read(n_header))
        self.keys = [name for name in self._tensors if name != "__metadata__"]

    def _read(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise ValueError(f"asked for {n_bytes} bytes, got {len(data)}")
        return data

    def read(self, name: str, progress: bool) -> Tensor:
        entry = self._tensors[name]
        check_table(name, entry["dtype"], entry["shape"], self.source)
        table = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        into = table.view(-1).view(torch.uint8).numpy()
        begin, end = entry["data_offsets"]
        if end - begin != into.size:
            raise ValueError(f"{name} has {end - begin} bytes, its shape wants {into.size}")
        self._file.seek(self._start + begin)
        for start in track(range(0, into.size, READ_BYTES), "Fetching embeddings", show=progress):
            part = into[start : start + READ_BYTES]
            part[:] = np.frombuffer(self._read(part.size), np.uint8)
        return table


def open_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint; from the Hub, fetch its configs and tokenizer but no weights.

    The address of the Hub, its token and offline mode are the hub library's own (HF_ENDPOINT, HF_TOKEN,
    HF_HUB_OFFLINE).

    Args:
        source: A folder, a GGUF file or a folder with one, or a name on the Hub.
        revision: Branch, tag or commit on the Hub; None: main.

    Raises:
        BankError: If there is no such checkpoint, or it cannot be reached or unpacked.
    """
    folder = Path(unpack(source)).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BankError(f"{source}: is on disk, and has no revision {revision!r}. Leave revision out.")
        checkpoint = Checkpoint(source, folder)
    else:
        try:
            snapshot = snapshot_download(
                source, revision=revision, allow_patterns=list(SMALL_FILES), ignore_patterns=["*/*"]
            )
        except HFValidationError as error:
            raise BankError(f"{source}: neither a folder nor a name on the Hub. Check source.") from error
        except HUB_ERRORS as error:
            raise BankError(
                f"{source}: no such folder, and cannot be had from the Hub ({_shorten(error)}). Check "
                "source, revision and your connection; a gated or private model needs a login (hf auth "
                "login)."
            ) from error
        checkpoint = Checkpoint(source, Path(snapshot), commit=Path(snapshot).name)
    if not (checkpoint.folder / "config.json").exists():
        raise BankError(
            f"{source}: no config.json, so not a transformers checkpoint. Merge an adapter into its model "
            "first; of a repository of GGUF files, fetch one and name it."
        )
    return checkpoint


def read_embeddings(source: str, revision: str | None = None, *, progress: bool = False) -> Tensor:
    """Read the input-embedding matrix of any checkpoint, as float32 (V, D).

    Only that tensor is read, in a folder or on the Hub: of a sharded checkpoint one shard has to be there,
    and from the Hub only the header of that shard and the bytes of the tensor are fetched.

    Args:
        source: A folder, or a name on the Hub.
        revision: Branch, tag or commit on the Hub; None: main.
        progress: Show a bar while bytes are fetched.

    Raises:
        BankError: If it cannot be had: no such checkpoint, no safetensors weights, a quantised table.

    >>> import tempfile, transformers
    >>> folder = tempfile.mkdtemp()
    >>> config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)
    >>> transformers.GPT2LMHeadModel(config).half().save_pretrained(folder)
    >>> table = read_embeddings(folder)
    >>> table.shape, table.dtype
    (torch.Size([50, 16]), torch.float32)
    """
    return open_checkpoint(source, revision).read_embeddings(progress=progress).float()


def name_embeddings(config: PretrainedConfig, source: str = "config") -> tuple[str, ...]:
    """Return the names of a model's input embeddings among its parameters: its own, then those tied to it.

    The model is built without memory for its weights.

    >>> import transformers
    >>> name_embeddings(transformers.GPT2Config())
    ('transformer.wte.weight', 'lm_head.weight')
    """
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModel):
        try:
            with torch.device("meta"):
                model = auto.from_config(config, trust_remote_code=False)
                table = model.get_input_embeddings().weight
        except (ValueError, ImportError, AttributeError, NotImplementedError) as error:
            reason = error
            continue
        parameters = model.named_parameters(remove_duplicate=False)
        return tuple(name for name, parameter in parameters if parameter is table)
    raise BankError(
        f"{source}: transformers finds no input embeddings in a {config.model_type} model "
        f"({_shorten(reason)}). Take a causal language model."
    ) from reason


def choose_name(keys: Iterable[str], names: Sequence[str], source: str = "file") -> str:
    """Return the stored tensor that one of these parameters was loaded from.

    Names are compared whole, then without their first parts: a base model's weights lack the prefix, those of
    a composite model may carry another.

    >>> choose_name(["wpe.weight", "wte.weight"], ["transformer.wte.weight", "lm_head.weight"])
    'wte.weight'
    """
    keys = list(keys)
    for name in names:
        if name in keys:
            return name
    for name in names:
        parts = name.split(".")
        for first in range(1, len(parts) - 1):
            tail = ".".join(parts[first:])
            found = [key for key in keys if f".{key}".endswith(f".{tail}")]
            if len(found) == 1:
                return found[0]
    raise BankError(
        f"{source}: no tensor like {' or '.join(names)} in it. Save the model again with save_pretrained."
    )


def check_table(name: str, dtype: str, shape: Sequence[int], source: str) -> None:
    """Raise `BankError` unless a stored tensor is a matrix of plain floating-point numbers."""
    if dtype not in DTYPES:
        raise BankError(
            f"{source}: {name} is stored as {dtype}, quantised. Take a checkpoint with {', '.join(DTYPES)} "
            "embeddings."
        )
    if len(shape) != 2:
        raise BankError(f"{source}: {name} has shape {tuple(shape)}, and embeddings are a matrix.")


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"
