"""Pictures from files of others: their size is looked at before a pixel is decoded."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image

from hf_icl.errors import BankError

MOST_PIXELS = 1 << 24  # 4,096 × 4,096, some 50 MB decoded
MOST_BYTES = 1 << 26  # of a file
UNREADABLE = (  # what Pillow's readers raise
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError,
    RuntimeError, zlib.error,
)  # fmt: skip


def read_picture(
    content: bytes | Path, what: str, *, mode: str | None = None, size: int | None
) -> np.ndarray:
    """Decode a picture to uint8 (H, W), or (H, W, 3) where it has colours.

    Args:
        content: A file, or what is in one.
        what: How messages name it.
        mode: Of Pillow, such as L; None: grey where it is, else RGB.
        size: Height and width to resize to (area average); None: as it is.

    Raises:
        BankError: If it is none, or too large to be taken in.

    >>> read_picture(b"GIF89a", "a.gif", size=None)
    Traceback (most recent call last):
        ...
    hf_icl.errors.BankError: a.gif cannot be read (UnidentifiedImageError). Store it again.
    """
    try:
        n_bytes = content.stat().st_size if isinstance(content, Path) else len(content)
        if n_bytes > MOST_BYTES:
            raise BankError(f"{what}: has {n_bytes:,} bytes; {MOST_BYTES:,} are the most. Store it smaller.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of odd tags, and of sizes that we bound
            with PIL.Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    rule = f"has {width:,} × {height:,} pixels; {MOST_PIXELS:,} are the most"
                    raise BankError(f"{what}: {rule}. Store it smaller.")
                image = image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))
        if size is not None:
            image = image.resize((size, size), PIL.Image.Resampling.BOX)
        return np.asarray(image)
    except BankError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise BankError(f"{what}: has more pixels than can be taken in. Store it smaller.") from error
    except UNREADABLE as error:
        said = type(error).__name__ if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        raise BankError(f"{what} cannot be read ({said}). Store it again.") from error
