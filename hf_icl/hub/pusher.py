"""Empties an outbox: one commit after another, in the background or not, with retries that end."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hf_icl.errors import HfIclError, HubError
from hf_icl.hub.outbox import Item, Outbox
from hf_icl.hub.repos import CLIENT_ERRORS, describe_failure, is_passing, read_retry_after
from hf_icl.hub.target import read_tag

logger = logging.getLogger(__name__)

N_TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 300.0


class Pusher:
    """Pushes what an outbox holds to one model repository.

    Args:
        outbox: What to push.
        repo_id: Where to.
        prepare: Called before the first commit; makes the repository, and raises what `HfApi` raises.
        api: The Hub's client.
        wait: Waits so many seconds; `BackgroundPusher` puts one there that it can cut short.

    Attributes:
        published: Steps that are revisions on the Hub, as far as this process knows.
        trouble: Why the last try failed; None if nothing is wrong.
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
        self.published: set[int] = set()
        self.trouble: str | None = None
        self._prepared = False

    def push_all(self) -> None:
        """Push everything that waits, in order, stopping at the first commit that does not go through."""
        try:
            for item in self.outbox.items():
                insist(lambda item=item: self._push(item), self.repo_id, wait=self.wait, tell=self._note)
                self.outbox.done(item)
            self.trouble = None
        except HubError as error:
            self.trouble = str(error)

    def list_published(self) -> set[int]:
        """Return the steps that are revisions on the Hub; where it cannot be asked,
        those that this process knows of."""
        try:
            self.published = self._ask_published()
        except RepositoryNotFoundError:
            self.published = set()
        except CLIENT_ERRORS as error:  # said when the first commit fails, if it does
            logger.debug("%s: revisions cannot be listed: %s", self.repo_id, error)
        return self.published

    def _ask_published(self) -> set[int]:
        tags = self.api.list_repo_refs(self.repo_id).tags
        return {step for ref in tags if (step := read_tag(ref.name)) is not None}

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    def _push(self, item: Item) -> None:
        """Make one commit and its tag. Repeating it changes nothing,
        and a step that has its tag is not pushed again."""
        if not self._prepared:
            self.prepare()
            self.published = self._ask_published()
            self._prepared = True
        step = None if item.tag is None else read_tag(item.tag)
        if step in self.published:
            return
        head = self.api.repo_info(self.repo_id).sha
        there = set(self.api.list_repo_files(self.repo_id, revision=head)) if item.remove else set()
        kept = set(item.files)
        gone = [path for path in sorted(there - kept) if path.split("/")[0] in item.remove]
        operations = [
            *(CommitOperationDelete(path) for path in gone),
            *(CommitOperationAdd(path, str(file)) for path, file in item.files.items()),
        ]
        with warnings.catch_warnings():  # the report's own table is meant to be there
            warnings.filterwarnings("ignore", ".*commit a data file.*", UserWarning)
            # refused if somebody committed meanwhile, or if this arrives late, when a later step is there
            commit = self.api.create_commit(
                self.repo_id, operations, commit_message=item.message, parent_commit=head
            )
        if step is not None:
            self.api.create_tag(self.repo_id, tag=item.tag, revision=commit.oid, exist_ok=True)
            self.published.add(step)


def insist(
    push: Callable[[], None],
    repo_id: str,
    *,
    wait: Callable[[float], object] = time.sleep,
    tell: Callable[[str], None] = logger.debug,
) -> None:
    """Try until it works, until trying again is pointless, or `N_TRIES` times.

    Args:
        push: What to try; it can be repeated.
        repo_id: Where to, for the sentence.
        wait: Waits so many seconds, and returns True to say that it is not worth going on.
        tell: Gets the sentence of each try that failed.

    Raises:
        HubError: If it did not go through.
    """
    pause = FIRST_WAIT_S
    for number in range(1, N_TRIES + 1):
        try:
            return push()
        except HfIclError as error:
            raise HubError(str(error)) from error
        except CLIENT_ERRORS as error:
            trouble = f"{repo_id}: {describe_failure(error)}"
            if number == N_TRIES or not is_passing(error):
                raise HubError(trouble) from error
            tell(trouble)
            if wait(min(read_retry_after(error) or pause, LONGEST_RETRY_AFTER_S)):
                raise HubError(trouble) from error
        pause = min(2 * pause, LONGEST_WAIT_S)
    return None


class BackgroundPusher:
    """A pusher in a thread of its own, woken whenever the outbox has grown; training never waits for it."""

    def __init__(self, pusher: Pusher) -> None:
        self.pusher = pusher
        self._changed = threading.Condition()
        self._asked = self._answered = 0  # how often it was woken, and which of these calls it has dealt with
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="hf_icl-push", daemon=True)
        pusher.wait = self._stop.wait

    def start(self) -> None:
        """Begin, with what an earlier process has left in the outbox."""
        self.wake()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new to push."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def drain(self, seconds: float | None) -> bool:
        """Wait until everything is pushed or a push has failed for good;
        return False if the time is over before.

        Raises:
            BaseException: What went wrong in the thread, if that was no push.
        """
        with self._changed:
            ended = self._changed.wait_for(lambda: self._error or self._answered == self._asked, seconds)
        if self._error is not None:
            raise self._error
        return bool(ended)

    def stop(self) -> None:
        """End without waiting. The commit under way may still come through;
        what is left waits in the outbox."""
        self._stop.set()
        self.wake()

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._answered < self._asked)
                    asked = self._asked
                if self._stop.is_set():
                    return
                self.pusher.push_all()
                with self._changed:
                    self._answered = asked
                    self._changed.notify_all()
        except BaseException as error:  # handed to the thread that waits
            with self._changed:
                self._error = error
                self._changed.notify_all()
