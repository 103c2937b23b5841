"""What may stand in a message: values cut short, control characters spelt out, secrets masked."""

from __future__ import annotations

import html
import re
import reprlib
from collections.abc import Iterable, Sequence

MOST_CHARACTERS = 2_000  # of a message: about a screen
MASK = "***"

# C0 and C1 controls but tab and new line, and what turns the direction of text: any of them can make a
# terminal show, or do, something else than what is written.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

_SECRETS = re.compile(
    r"""
    \bhf_[A-Za-z0-9]{16,} | \bapi_org_[A-Za-z0-9]{16,}        # Hugging Face
    | \bgh[opsur]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,}     # GitHub
    | \bsk-[A-Za-z0-9_-]{20,} | \bAKIA[A-Z0-9]{16}\b          # model services, AWS
    | \beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*                     # JSON web tokens
    | (?<=://)[^\s/@:]*:[^\s/@]+(?=@)                         # user:password@ in an address
    | (?i:(?<=bearer\ )[\w.~+/=-]{8,})
    | (?i:(?<![A-Za-z])(?:token|secret|password|passwd|api_?key|access_?key|credential|signature)
      ["']?\s*[=:]\s*["']?)(?!none\b|null\b|true\b|false\b)(?P<value>[^\s"',;&}\])]{6,})
    """,
    re.VERBOSE,
)


def clean(text: str) -> str:
    r"""Return text with its control characters spelt out, so that a terminal shows them and obeys none.

    >>> print(clean("runs/\x1b]0;mine\x07a"))
    runs/\x1b]0;mine\x07a
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def mask(text: str) -> str:
    """Return text with what looks like a token, a password or a key masked.

    >>> mask("hf-icl run data.token=hf_abcdefghijklmnopqrst https://me:secret@hub/a?signature=0123456789")
    'hf-icl run data.token=*** https://***@hub/a?signature=***'
    """
    return _SECRETS.sub(_mask_value, text)


def _mask_value(found: re.Match[str]) -> str:
    value = found["value"]
    return MASK if value is None else found[0][: -len(value)] + MASK


def say_plainly(text: str) -> str:
    """Return a message as it may be shown: masked, without control characters, no longer than a screen."""
    text = clean(mask(text))
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS // 2]} … {text[-MOST_CHARACTERS // 2 :]}"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 4, 8, 12, 12, 12
        self.maxstring, self.maxother, self.maxlong = 300, 300, 60

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 1_000:  # Python refuses to write out the longest ones
            return f"<a whole number of {value.bit_length():,} bits>"
        return super().repr_int(value, level)


def shorten(value: object) -> str:
    """Return how a value is written in a message: as `repr` does, but cut where it is long or deep.

    >>> shorten({"steps": list(range(99))})
    "{'steps': [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]}"
    """
    return _Short().repr(value)


def render_table(head: Sequence[object], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """Return an HTML table, as notebooks show it.

    >>> render_table(["step", "a<b"], [[1, 0.5]], "two")
    '<table><caption>two</caption><tr><th>step</th><th>a&lt;b</th></tr><tr><td>1</td><td>0.5</td></tr></table>'
    """
    cells = [("th", head), *(("td", row) for row in rows)]
    lines = "".join(
        f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in row)}</tr>"
        for tag, row in cells
    )
    return f"<table>{f'<caption>{html.escape(title)}</caption>' if title else ''}{lines}</table>"
