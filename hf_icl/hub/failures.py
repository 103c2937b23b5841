"""What a failure of the Hub's client means in a sentence, and whether the same may go through later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from hf_icl.errors import HfIclError, HubError

PASSING = (408, 409, 412, 425, 429)  # beside 500 and above
LONGEST_SAID = 300  # characters of what a server says
FULL = "the quota is used up. Free some space on the Hub, or push less"
AGAIN = "The same again would be refused again"
REASONS = {
    400: f"the Hub refuses what was sent (400). {AGAIN}: mend what it names",
    401: "the Hub does not know this token, or there is none. Log in with: hf auth login",
    402: FULL,
    403: "the token may not write there. Make one with write access, then log in with: hf auth login",
    404: "there is no such repository, or the token may not see it",
    409: "somebody else is changing it. Try again",
    410: f"it was there and is gone for good (410). {AGAIN}: choose another name",
    412: "somebody else changed it meanwhile. Try again",
    413: f"a file or a commit is larger than the Hub takes (413). {AGAIN}: push less",
    415: f"the Hub does not take content of this kind (415). {AGAIN}: try another huggingface_hub",
    422: f"the Hub cannot use what was sent (422). {AGAIN}: mend what it names",
    429: "the Hub asks to slow down. Try again in some minutes",
}
NO_TEXT = (JSONDecodeError, UnicodeDecodeError)
NO_JSON = "what answered is not the Hub's API: no JSON, as from a login page or a proxy"
LOOK = "Look at the network and at HF_ENDPOINT, then try again"


class FailedRequestError(HubError):
    """The Hub could not be asked, refused, or gave an answer that cannot be one.

    Args:
        repo_id: What was asked about.
        trouble: Why it failed, and what to do.
        passing: Whether the same may go through later.
        retry_after: Seconds that the server asks to wait, if it says so.
        status: The server's, if that is why.
    """

    def __init__(
        self,
        repo_id: str,
        trouble: str,
        *,
        passing: bool,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        self.passing, self.retry_after, self.status = passing, retry_after, status
        super().__init__(f"{repo_id}: {trouble}")


@contextmanager
def asking(repo_id: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one sentence. Only calls of the client belong in here.

    Raises:
        FailedRequestError: For every exception: an answer of another shape than it should be makes the client
            raise KeyError, TypeError and others. It never holds a token: only what the server said.
    """
    try:
        yield
    except HfIclError:
        raise
    except Exception as error:
        status = getattr(getattr(find_cause(error), "response", None), "status_code", None)
        raise FailedRequestError(
            repo_id,
            describe_failure(error),
            passing=is_passing(error),
            retry_after=read_retry_after(error),
            status=status,
        ) from error


def describe_failure(error: Exception) -> str:
    """Return what an error of the Hub's client means, and what to do. Never holds a token:
    only what the server said, cut short.

    >>> describe_failure(ConnectionRefusedError("refused"))
    'the Hub cannot be reached (ConnectionRefusedError: refused). Look at the network, then try again.'
    >>> describe_failure(KeyError("commitOid"))
    "the Hub's answer is not of the shape that it should have (KeyError: 'commitOid'). Try again."
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    if isinstance(cause, RevisionNotFoundError):
        return "there is no such revision of it."
    if isinstance(cause, GatedRepoError):
        return "it is gated. Ask for access on its page on the Hub, then log in with: hf auth login"
    if response is not None:
        return _describe_answer(response.status_code, getattr(cause, "server_message", None) or "")
    first = (str(cause).strip().splitlines() or [""])[0][:LONGEST_SAID]
    what = f"{type(cause).__name__}: {first}".rstrip(": ")
    if isinstance(cause, NO_TEXT):
        return f"{NO_JSON}. {LOOK}."
    if _is_network(cause):
        return f"the Hub cannot be reached ({what}). Look at the network, then try again."
    if _is_of_disk(cause):
        place = f"{cause.filename}: " if cause.filename else ""
        return f"on this machine, {place}{cause.strerror or first}. Mend that, then try again."
    if _is_misshapen(cause):
        return f"the Hub's answer is not of the shape that it should have ({what}). Try again."
    return f"the client gave up ({what})."


def _describe_answer(status: int, said: str) -> str:
    lines = said.strip().splitlines()[:1]
    reason = REASONS.get(status, f"the Hub answers {status}. Try again later")
    if status not in REASONS and not _may_pass(status):
        reason = f"the Hub answers {status}. {AGAIN}"
    if status == 403 and re.search("storage|quota", " ".join(lines), re.IGNORECASE):
        reason = FULL
    if lines and re.search("<!doctype|<html", lines[0], re.IGNORECASE):
        return f"{reason}. {NO_JSON[0].upper()}{NO_JSON[1:]}."
    return f"{reason}." + "".join(f" The Hub says: {line[:LONGEST_SAID]}" for line in lines)


def find_cause(error: BaseException) -> BaseException:
    """Return what the server or the network said: the client wraps it in errors of other kinds here and
    there."""
    while getattr(error, "response", None) is None and isinstance(error.__cause__, HTTPError | OSError):
        error = error.__cause__
    return error


def is_passing(error: Exception) -> bool:
    """Return whether the same request may go through later.

    >>> is_passing(TimeoutError()), is_passing(KeyError("sha")), is_passing(RuntimeError("no"))
    (True, True, False)
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if response is not None:
        return _may_pass(response.status_code)
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    return _is_network(cause) or _is_misshapen(cause) or isinstance(cause, NO_TEXT)


def _may_pass(status: int) -> bool:
    return status in PASSING or status >= 500 or status < 400


def _is_network(cause: BaseException) -> bool:
    return isinstance(cause, HTTPError | ConnectionError | TimeoutError)


def _is_of_disk(cause: BaseException) -> bool:
    return isinstance(cause, OSError) and cause.errno is not None


def _is_misshapen(cause: BaseException) -> bool:
    """Return whether the client runs into such an error where an answer is not what it expects."""
    return isinstance(cause, LookupError | TypeError | AttributeError | AssertionError | RecursionError)


def read_retry_after(error: Exception) -> float | None:
    """Return how many seconds the server asks to wait, None if it does not say."""
    headers = getattr(getattr(find_cause(error), "response", None), "headers", {})
    try:
        seconds = float(headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
