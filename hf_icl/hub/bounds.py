"""How much of an answer is taken in, and how long one is waited for."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HTTPError

from hf_icl.errors import HubError

httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx2 under huggingface_hub 2

Found = TypeVar("Found")
MOST_ANSWER_BYTES = 8 << 20  # of JSON: a page of a listing has a thousand names, some 0.4 MB


class _Bound:
    """How many bytes may still come in."""

    def __init__(self, left: int) -> None:
        self.left = left


_bound: ContextVar[_Bound | None] = ContextVar("_bound", default=None)


class _Counted(httpx.SyncByteStream):
    """The bytes of an answer, which stop where they are too many."""

    def __init__(self, stream: Any, bound: _Bound) -> None:
        self.stream, self.bound = stream, bound

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.stream:
            self.bound.left -= len(piece)
            if self.bound.left < 0:
                raise HubError("an answer of the Hub is longer than it can be. It is not taken in.")
            yield piece

    def close(self) -> None:
        self.stream.close()


def _ask_for_plain_bytes(request: Any) -> None:
    if _bound.get() is not None:
        request.headers["Accept-Encoding"] = "identity"


def _count(response: Any) -> None:
    if (bound := _bound.get()) is None:
        return
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":  # some MB can hold GB
        raise HubError("an answer of the Hub is packed, and plain bytes were asked for. It is not taken in.")
    response.stream = _Counted(response.stream, bound)


@contextmanager
def bounded(most_bytes: int = MOST_ANSWER_BYTES) -> Iterator[None]:
    """Let no more than so many bytes come in from the Hub, all answers together, in this thread.

    The client's session gets two hooks once, which do nothing outside of this.

    Raises:
        HubError: Where more come.
    """
    hooks = get_session().event_hooks
    for kind, hook in (("request", _ask_for_plain_bytes), ("response", _count)):
        if hook not in hooks[kind]:
            hooks[kind].append(hook)
    token = _bound.set(_Bound(most_bytes))
    try:
        yield
    finally:
        _bound.reset(token)


def finish_within(seconds: float, what: Callable[[], Found], late: str) -> Found:
    """Return what a function returns, if it does so within some seconds; it goes on in a thread if not.

    Raises:
        HubError: If it takes longer; `late` says so.

    >>> finish_within(10, lambda: 1 + 1, "too late")
    2
    """
    found: list[Found] = []
    trouble: list[BaseException] = []

    def work() -> None:
        try:
            found.append(what())
        except BaseException as error:  # raised where it is waited for
            trouble.append(error)

    thread = threading.Thread(target=work, name="hf_icl-fetch", daemon=True)
    thread.start()
    thread.join(seconds)
    if trouble:
        raise trouble[0]
    if not found:
        raise HubError(late)
    return found[0]
