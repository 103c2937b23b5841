"""How a commit's NDJSON is read, and which files have to be large ones."""

import base64
import binascii
import json
import re
from fnmatch import fnmatch

from .objects import Add, AddLarge, Delete, Refusal

LARGEST_REGULAR = 10 * 1024 * 1024
LARGE_SUFFIXES = (
    ".7z .arrow .bin .bz2 .ckpt .ftz .gz .h5 .joblib .lz4 .mlmodel .model .msgpack .npy .npz .onnx .ot "
    ".parquet .pb"
    " .pickle .pkl .pt .pth .rar .safetensors .tar .tflite .tgz .wasm .xz .zip .zst"
).split()


def is_large(path: str, size: int, sample: bytes, attributes: str) -> bool:
    """Return whether a file belongs into LFS: by `.gitattributes`, by size, or because it is no text."""
    for line in attributes.splitlines():
        pattern, *words = line.split() or [""]
        if "filter=lfs" in words and fnmatch(path if "/" in pattern else path.rpartition("/")[2], pattern):
            return True
    return size > LARGEST_REGULAR or b"\0" in sample


def parse(body: bytes) -> tuple[dict, list[Add | AddLarge | Delete]]:
    """Return header and changes of a commit sent as NDJSON.

    Raises:
        Refusal: 400, with the line that is wrong.
    """
    header, changes = None, []
    for number, line in enumerate(body.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                if header is not None or changes:
                    raise ValueError("the header comes first, and once")
                header = _header(value)
            elif header is None:
                raise ValueError("the header comes first")
            else:
                changes.append(_change(key, value))
        except (ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f"Invalid commit payload, line {number}: {error!r}") from None
    if header is None:
        raise Refusal(400, "Invalid commit payload: no header")
    return header, changes


def _header(value: dict) -> dict:
    if not isinstance(value["summary"], str) or not value["summary"].strip():
        raise ValueError("summary should not be empty")
    parent = value.get("parentCommit")
    if parent is not None and not re.fullmatch("[0-9a-f]{40}", parent):
        raise ValueError("parentCommit should be 40 hexadecimal digits")
    return value


def _change(key: str, value: dict) -> Add | AddLarge | Delete:
    path = value["path"]
    if not isinstance(path, str):
        raise ValueError("path should be a string")
    if key == "file":
        if value.get("encoding", "utf-8") not in ("base64", "utf-8"):
            raise ValueError("encoding should be base64 or utf-8")
        return Add(path, _content(path, value))
    if key == "lfsFile":
        if value["algo"] != "sha256" or not re.fullmatch("[0-9a-f]{64}", value["oid"]):
            raise ValueError("an LFS file is named by its sha256 in hexadecimal digits")
        if not isinstance(value.get("size"), int | None):
            raise ValueError("size should be a whole number")
        return AddLarge(path, value["oid"], value.get("size"))
    if key in ("deletedFile", "deletedFolder"):
        return Delete(path.rstrip("/"), key == "deletedFolder")
    raise ValueError(f"unknown key {key!r}")


def _content(path: str, value: dict) -> bytes:
    try:
        text = value["content"]
        content = (
            base64.b64decode(text, validate=True) if value.get("encoding") == "base64" else text.encode()
        )
    except binascii.Error as error:
        raise ValueError(f"content is no base64: {error}") from None
    if len(content) > LARGEST_REGULAR:
        raise Refusal(400, f"{path} is larger than 10 MiB and should be an LFS file")
    return content
