"""Whatever lies in a bank's file: exemplars, or a sentence; never a traceback, and no more memory than it is
worth.

Files are made by a seed: arrays, tensors, tables and pictures of odd types and values, some of them with
headers that promise more than there is, bytes changed, or cut.
"""

import io
import json
import random
import resource
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from hf_icl.banks.features import FeaturesConfig, load_features
from hf_icl.banks.omniglot_archive import ARCHIVES, _fetch, open_drawings
from hf_icl.banks.pictures import read_picture
from hf_icl.errors import BankError, ConfigError

ODD = (float("nan"), float("inf"), -float("inf"), 0.5, -1, 2**40, 0)
MOST_GROWTH = 400 << 20  # bytes that a process may grow over all of a kind
MOST_SECONDS = 10.0


def spoil(content: bytes, chance: random.Random) -> bytes:
    """Return a file's bytes, some changed, or cut, or doubled; most of the time as they are."""
    match chance.randrange(6):
        case 0:
            return content[: chance.randint(0, len(content))]
        case 1:
            where = chance.randrange(min(200, len(content)))
            return content[:where] + chance.randbytes(chance.randint(1, 8)) + content[where + 8 :]
        case 2:
            where = chance.randrange(len(content))
            return content[:where] + bytes([chance.randrange(256)]) + content[where + 1 :]
        case 3:
            return content + content[: chance.randint(0, 100)]
    return content


def make_array(chance: random.Random) -> np.ndarray:
    kind = chance.choice(["f4", "f8", "f2", "u1", "i8", "c8", "?", "U3", "i1"])
    shape = chance.choice([(6, 4, 5), (24, 5), (24,), (0, 4, 5), (6, 0, 5), (24, 8, 8), (6, 4, 3, 8, 8), ()])
    array = (np.arange(max(1, int(np.prod(shape)))) % 7)[: int(np.prod(shape))].reshape(shape).astype(kind)
    if array.size and array.dtype.kind in "fc" and chance.random() < 0.4:
        array.flat[chance.randrange(array.size)] = chance.choice(ODD[:3])
    return array


def make_labels(chance: random.Random) -> np.ndarray:
    labels = np.repeat(np.arange(6), 4).astype(chance.choice(["i8", "f4", "f8", "f2", "c8", "?", "U3", "u1"]))
    if labels.dtype.kind in "fc" and chance.random() < 0.5:
        with np.errstate(over="ignore"):
            labels[chance.randrange(24)] = chance.choice(ODD)
    return labels[: chance.choice([24, 24, 24, 23, 0])]


def write_npy(path: Path, array: np.ndarray, chance: random.Random) -> None:
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    if chance.random() < 0.3:  # says that it holds much more
        shape = chance.choice(
            ["(999999999999,)", "(99999, 99999, 99999)", "(-1, 4)", "(1e9,)", "(" * 50, "(True,)"]
        )
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 64
    path.write_bytes(spoil(content, chance))


def try_npy(folder: Path, chance: random.Random) -> None:
    write_npy(folder / "x.npy", make_array(chance), chance)
    labels = None
    if chance.random() < 0.6:
        write_npy(folder / "y.npy", make_labels(chance), chance)
        labels = str(folder / "y.npy")
    load(folder / "x.npy", labels=labels)


def can_save(kind: torch.dtype) -> bool:
    """Whether this safetensors knows a type: old ones lack complex numbers."""
    try:
        safetensors.torch.save({"x": torch.zeros(1, dtype=kind)})
    except KeyError:
        return False
    return True


def try_safetensors(folder: Path, chance: random.Random) -> None:
    floats = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
    kinds = [kind for kind in (*floats, torch.uint8, torch.bool, torch.int64) if can_save(kind)]
    shape = chance.choice([(24, 5), (6, 4, 5), (0, 5), (24, 8, 8)])
    tensors = {"x": torch.arange(int(np.prod(shape))).reshape(shape).to(chance.choice(kinds))}
    tensors["y"] = torch.arange(6).repeat_interleave(4).to(chance.choice(kinds))
    if tensors["y"].is_floating_point() and chance.random() < 0.5:
        tensors["y"][0] = chance.choice(ODD)
    content = safetensors.torch.save(tensors)
    if chance.random() < 0.3:
        shape = chance.choice([[10**12], [-1], [2**62, 4], [24, 5.5], "x", []])
        head = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}).encode()
        content = struct.pack("<Q", chance.choice([len(head), 2**40, 0])) + head + b"\0" * 8
    (folder / "x.safetensors").write_bytes(spoil(content, chance))
    load(folder / "x.safetensors", features="x", labels=chance.choice(["y", "y", None, "z"]))


def try_parquet(folder: Path, chance: random.Random) -> None:
    rows = [[float(n), 1.0, 2.0] for n in range(24)]
    if chance.random() < 0.5:
        rows[3] = chance.choice([[], None, [float("nan")] * 3, [1.0] * 9, [None, 1.0, 2.0]])
    labels = chance.choice([[n // 4 for n in range(24)], [n / 8 for n in range(24)], [None] * 24, ["a"] * 24])
    table = pa.table({"x": rows, "label": labels})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    (folder / "x.parquet").write_bytes(spoil(file.getvalue(), chance))
    load(folder / "x.parquet")


def make_png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """Return a PNG whose header says how large it is, whatever it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def make_picture(chance: random.Random) -> bytes:
    sizes = [
        (8, 8),
        (8, 8),
        (30_000, 30_000),
        (0, 8),
        (2**31 - 1, 1),
        (70_000, 3_000),
        (4_097, 4_097),
        (1, 8),
    ]
    width, height = chance.choice(sizes)
    if chance.random() < 0.5:
        return spoil(make_png(width, height, b"\0" * 9 * 8), chance)
    file = io.BytesIO()
    kind = chance.choice(["PNG", "GIF", "BMP", "TIFF", "JPEG", "PPM", "WEBP"])
    PIL.Image.new(chance.choice(["L", "RGB"]), (8, 8)).save(file, kind)
    return spoil(file.getvalue(), chance)


def try_picture(folder: Path, chance: random.Random) -> None:
    content = make_picture(chance)
    (folder / "a").write_bytes(content)
    read_picture(chance.choice([content, folder / "a"]), "a", size=chance.choice([None, 8]))


def try_images(folder: Path, chance: random.Random) -> None:
    pictures = [make_png(8, 8, (b"\0" + bytes([n] * 8)) * 8) for n in range(12)]
    pictures[chance.randrange(12)] = chance.choice([make_picture(chance), None, b""])
    columns = {
        "image": [one if one is None else {"bytes": one, "path": None} for one in pictures],
        "label": [n // 4 for n in range(12)],
    }
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / "x.parquet")
    load(folder / "x.parquet", n_classes=3)


def try_archive(folder: Path, chance: random.Random) -> None:
    """Two archives of characters, one of them with something odd in it: a bomb, a name, a number."""
    odd = chance.choice(["bomb", "number", "serial", "picture", "digits", "spoilt", "lie", "none"])
    for number, archive in enumerate(ARCHIVES):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            for character in (1, 2):
                for drawing in (1, 2):
                    serial, name = 2 * number + character, f"character{character:02d}"
                    content = make_png(8, 8, (b"\0" + b"\xff" * 8) * 8)
                    if number and character == 2:
                        name = {"number": "character999999999", "digits": "character" + "9" * 3_000}.get(
                            odd, name
                        )
                        serial = {"serial": 10**12}.get(odd, serial)
                        content = make_picture(chance) if odd == "picture" else content
                        content = b"\0" * (65 << 20) if odd == "bomb" and drawing == 1 else content
                    made.writestr(f"{archive}/Latin/{name}/{serial:04d}_{drawing:02d}.png", content)
        content = file.getvalue()
        if odd == "lie":  # the directory says other sizes than there are
            content = content.replace(struct.pack("<I", len(make_png(8, 8))), struct.pack("<I", 2**31))
        (folder / f"{archive}.zip").write_bytes(spoil(content, chance) if odd == "spoilt" else content)
    open_drawings(str(folder), 4)


ADDRESSES = (
    "http://[::1", "http://", "http://\0/", "http://127.0.0.1:1/x y", "http://a b/", "http://127.0.0.1:99999/",
    "http://127.0.0.1:x/", "https://127.0.0.1:1/", "http://" + "a" * 300 + "/", "http://\u2603.invalid/",
)  # fmt: skip


def try_address(folder: Path, chance: random.Random) -> None:
    address = chance.choice(ADDRESSES) + chance.choice(["", "x", "%", "\n", "\udcff", "?" * 99])
    _fetch(address, folder / "x.zip", False)


def load(source: Path, n_classes: int = 6, **more: object) -> None:
    load_features(FeaturesConfig(source=str(source), n_classes=n_classes, **more))


KINDS = {  # of a bounded part, and of the whole
    "npy": (try_npy, 60, 600),
    "safetensors": (try_safetensors, 60, 600),
    "parquet": (try_parquet, 6, 150),
    "picture": (try_picture, 60, 600),
    "images": (try_images, 3, 60),
    "archive": (try_archive, 6, 60),
    "address": (try_address, 20, 200),
}


def try_all(kind, folder: Path, seeds: range) -> dict[str, object]:
    """Return figures: tried, refused in a sentence, accepted, tracebacks, growth in bytes, longest time."""
    found = {"tried": 0, "refused": 0, "accepted": 0, "tracebacks": [], "longest": 0.0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        here = folder / str(seed)
        here.mkdir()
        begun = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                kind(here, random.Random(seed))
            found["accepted"] += 1
        except (BankError, ConfigError) as error:
            found["refused"] += 1
            if len(str(error)) > 2_100 or "Traceback" in str(error):
                found["tracebacks"].append((seed, str(error)[:200]))
        except Exception as error:
            found["tracebacks"].append((seed, f"{type(error).__name__}: {error}"[:200]))
        found["tried"] += 1
        found["longest"] = max(found["longest"], time.monotonic() - begun)
    found["growth"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return found


def assert_held(found: dict[str, object]) -> None:
    print(found)
    assert found["tracebacks"] == []
    assert found["refused"] and found["growth"] < MOST_GROWTH and found["longest"] < MOST_SECONDS


def test_a_small_table_of_very_many_rows_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    n_rows = 300_000
    table = pa.table({"x": pa.array(np.zeros(n_rows, np.int8)), "label": pa.array(np.zeros(n_rows, np.int8))})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10_000
    monkeypatch.setattr("hf_icl.memory.count_free_bytes", lambda: 1_000_000)
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: pytest.fail("it was unpacked"))
    with pytest.raises(ConfigError, match="this table takes 0.0 GB of memory"):
        load(tmp_path / "x.parquet")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.parametrize("name", KINDS)
def test_some_hostile_files(tmp_path, name):
    kind, few, _ = KINDS[name]
    (tmp_path / "tried").mkdir()
    found = try_all(kind, tmp_path / "tried", range(few))
    print(found)
    assert found["tracebacks"] == [] and found["refused"] and found["longest"] < MOST_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_hostile_files(tmp_path, name):
    kind, _, many = KINDS[name]
    (tmp_path / "tried").mkdir()
    assert_held(try_all(kind, tmp_path / "tried", range(10_000, 10_000 + many)))
