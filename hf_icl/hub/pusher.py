"""Empties an outbox: one commit after another, in the background or not, with retries that end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hf_icl.errors import HfIclError
from hf_icl.hub.contents import STATE_FOLDER
from hf_icl.hub.failures import FailedRequestError
from hf_icl.hub.outbox import Item, Outbox
from hf_icl.hub.remote import Remote, find_amiss
from hf_icl.hub.target import read_tag

logger = logging.getLogger(__name__)

N_TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 300.0
MOST_LIKE_IT = 5  # commits of one title that are looked into


class Pusher:
    """Pushes what an outbox holds to one model repository. What leaves the outbox has been seen on the Hub.

    Args:
        outbox: What to push.
        remote: Where to.
        prepare: Called before the first commit; makes the repository, and raises `HubError`.
        wait: Waits so many seconds; `BackgroundPusher` puts one there that it can cut short.

    Attributes:
        refill: Called before each push of everything: looks at the Hub, and puts what is missing there into
            the outbox.
        published: Steps that are revisions on the Hub, as this process has seen, and the commit of each.
        trouble: Why the last try failed; None if nothing is wrong.
    """

    def __init__(
        self,
        outbox: Outbox,
        remote: Remote,
        prepare: Callable[[], object],
        *,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.outbox, self.remote, self.prepare, self.wait = outbox, remote, prepare, wait
        self.refill: Callable[[], None] = lambda: None
        self.published: dict[int, str] = {}
        self.trouble: str | None = None
        self._prepared = False
        self._last: str | None = None  # the commit of the last item that went out

    def push_all(self) -> None:
        """Push everything that waits, in order, stopping at the first commit that does not go through."""
        try:
            self._insist(self.refill)
            for item in self.outbox.items():
                self._insist(lambda item=item: self._push(item))
                self.outbox.done(item)
            self.trouble = None
        except HfIclError as error:
            self.trouble = str(error)

    def prepare_once(self) -> None:
        """Make the repository, unless this process has seen that it is there."""
        if not self._prepared:
            self.prepare()
            self._prepared = True

    def _insist(self, push: Callable[[], None]) -> None:
        insist(push, wait=self.wait, tell=self._note)

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    def _push(self, item: Item) -> None:
        """Make one commit and its tag, unless they are there. Repeating it changes nothing."""
        self.prepare_once()
        tag, step = item.tag, None if item.tag is None else read_tag(item.tag)
        commit = None if tag is None else self.remote.list_tags().get(tag)
        if commit is not None:
            if not self._holds(commit, item):
                raise self.remote.conflict(tag, commit)
        else:
            head = self.remote.read_head()
            commit = self._find_commit(item, head) or self._commit(item, head)
            if tag is not None:
                self.remote.tag(tag, commit)
        self._last = commit
        if step is not None:
            self.published[step] = commit

    def _find_commit(self, item: Item, head: str) -> str | None:
        """Return the commit of an item that an earlier try, or another machine, has made."""
        if head == self._last:
            return None  # nothing came after it
        if item.tag is None:
            made = [head]
        else:
            made = [commit for commit, title in self.remote.list_commits() if title == item.message]
        return next((commit for commit in made[:MOST_LIKE_IT] if self._holds(commit, item)), None)

    def _holds(self, commit: str, item: Item) -> bool:
        """Return whether a commit holds an item. Of the trainer's state names will do: the same step, trained
        again after a kill, tells there where it was resumed."""
        there = self.remote.list_files(commit)
        same = {path: file for path, file in item.files.items() if not path.startswith(f"{STATE_FOLDER}/")}
        emptied = not any(_is_emptied(path, item) for path in there)
        return emptied and there.keys() >= item.files.keys() and find_amiss(there, same) is None

    def _commit(self, item: Item, head: str) -> str:
        there = self.remote.list_files(head) if item.remove else ()
        gone = [path for path in sorted(there) if _is_emptied(path, item)]
        # refused if somebody committed meanwhile, or if this arrives late, when a later step is there
        return self.remote.put(item.files, message=item.message, parent=head, gone=gone)


def _is_emptied(path: str, item: Item) -> bool:
    return path.split("/")[0] in item.remove and path not in item.files


def insist(
    push: Callable[[], None],
    *,
    wait: Callable[[float], object] = time.sleep,
    tell: Callable[[str], None] = logger.debug,
) -> None:
    """Try until it works, until trying again is pointless, or `N_TRIES` times.

    Args:
        push: What to try; it can be repeated.
        wait: Waits so many seconds, and returns True to say that it is not worth going on.
        tell: Gets the sentence of each try that failed.

    Raises:
        HfIclError: If it did not go through.
    """
    pause = FIRST_WAIT_S
    for number in range(1, N_TRIES + 1):
        try:
            return push()
        except FailedRequestError as error:
            if number == N_TRIES or not error.passing:
                raise
            tell(str(error))
            if wait(min(error.retry_after or pause, LONGEST_RETRY_AFTER_S)):
                raise
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
