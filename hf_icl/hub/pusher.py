"""Empties an outbox: one commit after another, in the background or not, with retries that end."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import warnings
from collections.abc import Callable

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_icl.errors import HfIclError
from hf_icl.hub.outbox import Item, Outbox
from hf_icl.hub.selection import read_tag

logger = logging.getLogger(__name__)

PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # worth another try
N_TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 300.0


class PushFailed(HfIclError):
    """A push did not go through; what it should have carried waits in the outbox."""


@dataclasses.dataclass
class Progress:
    """What became of a run's pushes.

    Attributes:
        pushed: Steps that are on the Hub, as far as this process put or found them there.
        waiting: Commits in the outbox.
        trouble: Why the last push failed; None if nothing is wrong.
    """

    pushed: list[int] = dataclasses.field(default_factory=list)
    waiting: int = 0
    trouble: str | None = None


class Pusher:
    """Pushes what an outbox holds to one model repository.

    Args:
        outbox: What to push.
        repo_id: Where to.
        prepare: Called before the first commit; makes the repository, and raises what `HfApi` raises.
        api: The Hub's client.
        wait: Waits so many seconds; the default can be cut short by `finish`.
    """

    def __init__(
        self,
        outbox: Outbox,
        repo_id: str,
        prepare: Callable[[], object],
        *,
        api: HfApi | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.outbox, self.repo_id, self.prepare, self.wait = outbox, repo_id, prepare, wait
        self.api = api or HfApi()
        self.progress = Progress()
        self._prepared = False

    def push_all(self) -> Progress:
        """Push everything that waits, in order, stopping at the first commit that does not go through."""
        try:
            for item in self.outbox.items():
                self._insist(lambda item=item: self._push(item))
                self.outbox.done(item)
                if item.tag is not None:
                    self.progress.pushed.append(read_tag(item.tag))
            self.progress.trouble = None
        except PushFailed as error:
            self.progress.trouble = str(error)
        self.progress.waiting = len(self.outbox.items())
        return self.progress

    def list_published(self) -> list[int]:
        """Return the steps that are revisions on the Hub already; none where it cannot be asked."""
        try:
            refs = self.api.list_repo_refs(self.repo_id)
        except (HTTPError, OSError) as error:  # said when the first commit fails, if it does
            logger.debug("%s: revisions cannot be listed: %s", self.repo_id, error)
            return []
        return [step for ref in refs.tags if (step := read_tag(ref.name)) is not None]

    def _push(self, item: Item) -> None:
        """Make one commit and its tag. Repeating it changes nothing."""
        if not self._prepared:
            self.prepare()
            self._prepared = True
        there = set(self.api.list_repo_files(self.repo_id)) if item.remove else set()
        kept = set(item.files)
        gone = [path for path in sorted(there - kept) if path.split("/")[0] in item.remove]
        operations = [
            *(CommitOperationDelete(path) for path in gone),
            *(CommitOperationAdd(path, str(file)) for path, file in item.files.items()),
        ]
        with warnings.catch_warnings():  # the report's own table is meant to be there
            warnings.filterwarnings("ignore", ".*commit a data file.*", UserWarning)
            commit = self.api.create_commit(self.repo_id, operations, commit_message=item.message)
        if item.tag is not None:
            self.api.create_tag(self.repo_id, tag=item.tag, revision=commit.oid, exist_ok=True)

    def _insist(self, push: Callable[[], None]) -> None:
        """Try until it works, until trying again is pointless, or `N_TRIES` times."""
        pause = FIRST_WAIT_S
        for number in range(1, N_TRIES + 1):
            try:
                return push()
            except HfIclError as error:
                raise PushFailed(str(error)) from error
            except (HTTPError, OSError, ValueError) as error:  # the client's own errors are of these kinds
                if number == N_TRIES or not _is_passing(error):
                    raise PushFailed(describe(error, self.repo_id)) from error
                seconds = min(_read_retry_after(error) or pause, LONGEST_RETRY_AFTER_S)
                logger.debug("push to %s failed, again in %.0f s: %s", self.repo_id, seconds, error)
            self.wait(seconds)
            pause = min(2 * pause, LONGEST_WAIT_S)
        return None


class BackgroundPusher:
    """A pusher in a thread of its own, woken whenever the outbox has grown; training never waits for it."""

    def __init__(self, pusher: Pusher) -> None:
        self.pusher = pusher
        self._wanted, self._idle, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="hf_icl-push", daemon=True)
        self._error: BaseException | None = None
        pusher.wait = self._stop.wait

    def start(self) -> None:
        """Begin, with what an earlier process has left in the outbox."""
        self.wake()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new to push."""
        self._idle.clear()
        self._wanted.set()

    def drain(self, seconds: float | None) -> bool:
        """Wait until everything is pushed or a push has failed for good; return False if the time is over before.

        Raises:
            BaseException: What went wrong in the thread, if that was no push.
        """
        ended = self._idle.wait(seconds)
        if self._error is not None:
            raise self._error
        return ended

    def stop(self) -> None:
        """End without waiting. The commit under way may still come through; what is left waits in the outbox."""
        self._stop.set()
        self._wanted.set()

    def _work(self) -> None:
        try:
            while True:
                self._wanted.wait()
                if self._stop.is_set():
                    return
                self._wanted.clear()
                self.pusher.push_all()
                if not self._wanted.is_set():
                    self._idle.set()
        except BaseException as error:  # handed to the thread that waits
            self._error = error
            self._idle.set()


def describe(error: Exception, repo_id: str) -> str:
    """Return what went wrong in a sentence, with the way out. Never holds a token: only what the server says."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = (getattr(error, "server_message", None) or "").strip().splitlines()
    reason = {
        401: "the Hub does not know this token; log in with: hf auth login",
        402: "the quota is used up",
        403: "the token may not write there; make one with write access",
        404: "there is no such repository, or the token may not see it",
        429: "the Hub asks to slow down",
    }.get(status)
    if reason is None and status is None:
        reason = f"the Hub cannot be reached ({type(error).__name__})"
    words = [reason or f"the Hub answers {status}", *(said[:1])]
    return f"{repo_id}: {': '.join(words)}."


def _is_passing(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in PASSING
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _read_retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return float(headers["Retry-After"])
    except (KeyError, ValueError):
        return None
