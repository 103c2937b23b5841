"""What errors of the Hub's client mean, in a sentence, and whether trying again may help."""

from __future__ import annotations

import re

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

CLIENT_ERRORS = (
    HTTPError,
    OSError,
    RuntimeError,
    ValueError,
)  # of these kinds are all that the client raises
PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # worth another try
FULL = "the quota is used up. Free some space on the Hub, or push less"
REASONS = {
    401: "the Hub does not know this token, or there is none. Log in with: hf auth login",
    402: FULL,
    403: "the token may not write there. Make one with write access, then log in with: hf auth login",
    404: "there is no such repository, or the token may not see it",
    409: "somebody else is changing it. Try again",
    412: "somebody else changed it meanwhile. Try again",
    429: "the Hub asks to slow down. Try again in some minutes",
}


def describe_failure(error: Exception) -> str:
    """Return what an error of the Hub's client means, and what to do. Never holds a token: only what the server said.

    >>> describe_failure(ConnectionRefusedError("refused"))
    'the Hub cannot be reached (ConnectionRefusedError: refused). Look at the network, then try again.'
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    if response is None:
        first = (str(cause).strip().splitlines() or [""])[0]
        what = f"{type(cause).__name__}: {first}".rstrip(": ")
        if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            return f"the Hub cannot be reached ({what}). Look at the network, then try again."
        return f"the client gave up ({what})."
    said = (getattr(cause, "server_message", None) or "").strip().splitlines()[:1]
    reason = REASONS.get(response.status_code, f"the Hub answers {response.status_code}. Try again later")
    if response.status_code == 403 and re.search("storage|quota", " ".join(said), re.IGNORECASE):
        reason = FULL
    return f"{reason}." + "".join(f" The Hub says: {line}" for line in said)


def find_cause(error: BaseException) -> BaseException:
    """Return what the server or the network said: the client wraps it in errors of other kinds here and there."""
    while getattr(error, "response", None) is None and isinstance(error.__cause__, HTTPError | OSError):
        error = error.__cause__
    return error


def is_passing(error: Exception) -> bool:
    """Return whether the same request may go through later.

    >>> is_passing(TimeoutError()), is_passing(ValueError("not a name"))
    (True, False)
    """
    cause = find_cause(error)
    response = getattr(cause, "response", None)
    if response is not None:
        return response.status_code in PASSING
    network = isinstance(cause, HTTPError | ConnectionError | TimeoutError)
    return network and not isinstance(cause, OfflineModeIsEnabled)


def read_retry_after(error: Exception) -> float | None:
    """Return how many seconds the server asks to wait, None if it does not say."""
    headers = getattr(getattr(find_cause(error), "response", None), "headers", {})
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
