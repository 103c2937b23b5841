"""Reads the Omniglot archives, checks them, and keeps the decoded drawings in a cache.

Layout of each archive, zipped or as a folder: `<archive>/<Alphabet>/<characterNN>/<number>_<drawing>.png`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import io
import itertools
import json
import re
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from hf_icl.banks.bank import PIXEL_LEVELS, track
from hf_icl.banks.cache import find_cache_folder, open_cached
from hf_icl.banks.pictures import MOST_BYTES, read_picture
from hf_icl.errors import BankError
from hf_icl.reading import read_json

ARCHIVES = ("images_background", "images_evaluation")
TIMEOUT_S = 60
CHUNK_BYTES = 1 << 20
CACHE_FORMAT = 1
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
MOST_ARCHIVE_BYTES = 1 << 30
RESTORE_HINT = "Fetch the archive again, or extract it again in full."
DOWNLOAD_HINT = "Try again, or give as source a folder that holds both archives."


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Decoded drawings of all characters, in the order of (archive, alphabet, character).

    Attributes:
        ink: uint8 (n_characters, n_drawings, size, size), 255 on strokes and 0 on paper; mapped from a file.
        names: Such as "Greek/character03".
        mean_square: Mean of squared ink, ink in 0..1.
    """

    ink: np.ndarray
    names: tuple[str, ...]
    mean_square: float


@dataclasses.dataclass(frozen=True)
class _Archive:
    """One archive, zipped or extracted: how to read a drawing, and which drawings each character has."""

    path: Path
    read: Callable[[str], bytes | Path]
    members: dict[str, list[str]]


def open_drawings(source: str, size: int | None = None, *, progress: bool = False) -> Drawings:
    """Return the drawings of both archives, from the cache if they were decoded before.

    Args:
        source: Folder with the two archives, zipped or extracted, or an http(s) address that they lie under.
        size: Height and width in pixels to resize to (area average); None: as drawn, 105.
        progress: Show bars on standard error while downloading and decoding.

    Raises:
        BankError: If an archive is missing, broken or incomplete; it names the file and says what to do.
    """
    folder = _download(source, progress) if re.match(r"https?://", source) else Path(source).expanduser()
    paths = [_find_archive(folder, archive) for archive in ARCHIVES]
    key = hashlib.sha256(
        "\n".join([*map(_fingerprint, paths), f"{CACHE_FORMAT} {size}"]).encode()
    ).hexdigest()[:20]
    cached = find_cache_folder() / "omniglot" / f"{key}.npy"
    drawings = _load_cached(cached)
    if drawings is None:
        _decode_into(cached, paths, size, progress)
        drawings = _load_cached(cached)
    return drawings


def _download(prefix: str, progress: bool) -> Path:
    """Fetch the two archives, unless they are there, into a folder of the cache that belongs to the
    address."""
    prefix = prefix.rstrip("/") + "/"
    folder = find_cache_folder() / "omniglot" / hashlib.sha256(prefix.encode()).hexdigest()[:20]
    for archive in ARCHIVES:
        path = folder / f"{archive}.zip"
        if not path.exists():
            _fetch(f"{prefix}{archive}.zip", path, progress)
    return folder


def _fetch(url: str, path: Path, progress: bool) -> None:
    """Download one zip archive, whole or not at all."""
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT_S)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BankError(f"{url}: cannot be downloaded ({error}). {DOWNLOAD_HINT}") from error
    with response, open_cached(path) as file:
        said = response.headers.get("Content-Length") or "0"
        expected = int(said) if re.fullmatch("[0-9]{1,12}", said) else 0
        chunks, n_chunks = _read_chunks(response, url), -(-expected // CHUNK_BYTES) or None
        for chunk in track(chunks, f"Downloading {path.name}", show=progress, total=n_chunks):
            file.write(chunk)
            if file.tell() > MOST_ARCHIVE_BYTES:
                raise BankError(f"{url}: is larger than {MOST_ARCHIVE_BYTES:,} bytes. {DOWNLOAD_HINT}")
        if expected and file.tell() != expected:
            raise BankError(
                f"{url}: the download ended after {file.tell()} of {expected} bytes. {DOWNLOAD_HINT}"
            )
        if not zipfile.is_zipfile(file):
            raise BankError(f"{url}: what came is not a whole zip archive. {DOWNLOAD_HINT}")


def _read_chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise BankError(f"{url}: the download broke off ({error}). {DOWNLOAD_HINT}") from error


def _find_archive(folder: Path, archive: str) -> Path:
    for path in (folder / f"{archive}.zip", folder / archive):
        if path.exists():
            return path
    raise BankError(
        f"{folder / archive}.zip: not found, and no folder {archive} beside it. Omniglot is {ARCHIVES[0]} "
        f"and {ARCHIVES[1]}: put both into one folder, zipped or extracted, and give that folder as source."
    )


def _fingerprint(path: Path) -> str:
    """Identify an archive by its bytes, an extracted one by the names, sizes and times of its files."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in sorted(path.rglob("*"))]
    return repr([path.resolve(), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)])


def _open_archive(path: Path, archive: str) -> _Archive:
    if path.is_file():
        try:
            if (n_bytes := path.stat().st_size) > MOST_ARCHIVE_BYTES:
                raise zipfile.BadZipFile(f"{n_bytes:,} bytes; {MOST_ARCHIVE_BYTES:,} are the most")
            opened = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError) as error:
            raise BankError(
                f"{path}: not a whole zip archive ({error}). Delete it and fetch it again."
            ) from error

        def read(name: str) -> bytes:
            """Return a member; zipfile gives no more of it than it says to have, which is bounded here."""
            if (n_bytes := opened.getinfo(name).file_size) > MOST_BYTES:
                raise ValueError(f"it is said to hold {n_bytes:,} bytes; {MOST_BYTES:,} are the most")
            return opened.read(name)

        return _Archive(path, read, _group_members(opened.namelist(), archive))
    names = [file.relative_to(path.parent).as_posix() + "/" * file.is_dir() for file in path.rglob("*")]
    return _Archive(path, lambda name: path.parent / name, _group_members(names, archive))


def _group_members(names: Sequence[str], archive: str) -> dict[str, list[str]]:
    """Return the drawings of each character, both sorted by name;
    an empty folder is a character without any."""
    members: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name.split("/")):
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or parts[0] != archive or any(part.startswith(".") for part in parts):
            continue
        is_folder, is_drawing = (
            name.endswith("/") and len(parts) == 3,
            len(parts) == 4 and name.endswith(".png"),
        )
        if is_folder or is_drawing:
            members.setdefault("/".join(parts[1:3]), []).extend([name] * is_drawing)
    return members


def _check_complete(archives: Sequence[_Archive]) -> int:
    """Return the number of drawings of every character, or say which archive lacks something."""
    for archive in archives:
        if not archive.members:
            rule = f"no drawings at {archive.path.stem}/<Alphabet>/<characterNN>/<number>_<drawing>.png"
            raise BankError(f"{archive.path}: {rule}. Fetch the archive again, as its authors published it.")
        _check_folders(archive)
    n_drawings = Counter(
        len(files) for archive in archives for files in archive.members.values()
    ).most_common(1)[0][0]
    for archive in archives:
        for name, files in archive.members.items():
            if len(files) != n_drawings:
                raise BankError(
                    f"{archive.path}: {name} holds {len(files)} drawings, the other characters {n_drawings}. "
                    "Fetch the archive again; for unequal classes of your own use a bank of kind features."
                )
    _check_serials(archives)
    return n_drawings


def _check_folders(archive: _Archive) -> None:
    """The characters of an alphabet are numbered from 01 without a gap."""
    numbers: dict[str, set[int]] = {}
    for name in archive.members:
        alphabet, character = name.split("/")
        if match := re.fullmatch(r"character([0-9]{1,9})", character):
            numbers.setdefault(alphabet, set()).add(int(match[1]))
    for alphabet, present in numbers.items():
        lost = next(number for number in itertools.count(1) if number not in present)
        if lost < max(present):
            raise BankError(f"{archive.path}: {alphabet}/character{lost:02d} is missing. {RESTORE_HINT}")


def _check_serials(archives: Sequence[_Archive]) -> None:
    """The serials that begin the names of drawings, one for each character of both archives, have no gap."""
    firsts = [
        (archive, PurePosixPath(files[0]).name) for archive in archives for files in archive.members.values()
    ]
    owners = {
        int(found[1]): archive for archive, name in firsts if (found := re.match("([0-9]{1,9})(?:_|$)", name))
    }
    if len(owners) < len(firsts):
        return  # not the authors' names
    for serial, following in itertools.pairwise(sorted(owners)):
        if following != serial + 1:
            paths = " or ".join(dict.fromkeys(str(owners[number].path) for number in (serial, following)))
            raise BankError(
                f"{paths}: the character drawn in {serial + 1:04d}_01.png is missing. {RESTORE_HINT}"
            )


def _decode_into(cached: Path, paths: Sequence[Path], size: int | None, progress: bool) -> None:
    """Decode all drawings and write them, with what is known about them, to the cache."""
    archives = [_open_archive(path, name) for path, name in zip(paths, ARCHIVES, strict=True)]
    n_drawings = _check_complete(archives)
    names = [name for archive in archives for name in archive.members]
    files = [(archive, file) for archive in archives for part in archive.members.values() for file in part]
    ink, total = None, 0
    for row, (archive, file) in enumerate(track(files, "Decoding Omniglot", show=progress)):
        drawing = _decode(archive, file, size)
        if ink is None:
            ink = np.empty((len(files), *drawing.shape), np.uint8)
        if drawing.shape != ink.shape[1:] or drawing.shape[0] != drawing.shape[1]:
            found, first = ("×".join(map(str, shape)) for shape in (drawing.shape, ink.shape[1:]))
            rule = f"drawings must be square and of one size, and this is {found}, the first {first}"
            raise BankError(f"{archive.path}: {file}: {rule}. Fetch the archive again, or set size.")
        ink[row] = drawing
        total += int(np.square(drawing, dtype=np.int64).sum())
    ink = ink.reshape(len(names), n_drawings, *ink.shape[1:])
    facts = {"names": names, "shape": ink.shape, "mean_square": total / ink.size / PIXEL_LEVELS**2}
    with open_cached(cached) as file:
        np.save(file, ink)
    with open_cached(cached.with_suffix(".json")) as file:
        file.write(json.dumps(facts).encode())


def _decode(archive: _Archive, name: str, size: int | None) -> np.ndarray:
    """Return one drawing as uint8 ink (H, W), 255 on strokes."""
    try:
        content = archive.read(name)
    except UNREADABLE as error:
        raise BankError(
            f"{archive.path}: {name} cannot be read ({error}). Fetch the archive again."
        ) from error
    return PIXEL_LEVELS - read_picture(content, f"{archive.path}: {name}", mode="L", size=size)


def _load_cached(path: Path) -> Drawings | None:
    """Map the decoded drawings into memory, or return None where they are missing,
    cut short or of another shape."""
    try:
        facts = read_json(path.with_suffix(".json"))
        ink = np.load(path, mmap_mode="c")
        names, shape, mean_square = tuple(facts["names"]), tuple(facts["shape"]), float(facts["mean_square"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if ink.dtype != np.uint8 or ink.shape != shape or len(names) != len(ink):
        return None
    return Drawings(ink, names, mean_square)
