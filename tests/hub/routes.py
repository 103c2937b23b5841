"""Who may do what at the loopback Hub, and how a request finds its route.

A route is a function of a request and the named pieces of its path; they are registered by the modules beside
this one. `access` decides who may read or write before any of them looks at the rest.
"""

import datetime
import re
from collections.abc import Callable
from urllib.parse import quote, unquote

from .objects import Refusal
from .server import Answer, Handler, answer_json
from .store import Repo

ROUTES: list[tuple[str, re.Pattern, bool, Callable[..., Answer]]] = []
KIND = "(?P<kind>model|dataset|space)s"
REPO = f"/api/{KIND}/(?P<repo_id>[^/]+/[^/]+)"


def route(methods: str, pattern: str, storage: bool = False):
    """Register a function for methods and a pattern of the (quoted) path;
    named groups become its arguments."""

    def register(function):
        ROUTES.append((methods, re.compile(pattern), storage, function))
        return function

    return register


def answer(request: Handler) -> Answer:
    """Find the route and follow it."""
    if request.headers.get("Authorization") and request.user is None and not request.storage:
        raise Refusal(401, "Invalid credentials in Authorization header")
    known = False
    for methods, pattern, storage, function in ROUTES:
        if storage == request.storage and (found := pattern.fullmatch(request.url.path)):
            known = True
            if request.command in methods.split():
                groups = {name: text and unquote(text) for name, text in found.groupdict().items()}
                return function(request, **groups)
    if known:
        raise Refusal(405, "Method Not Allowed")
    if re.fullmatch(r"/api/(models|datasets|spaces)/[^/]+|/[^/]+/resolve/.*", request.url.path):
        raise missing(request)  # `gpt2` and the like: names without a namespace are not served
    raise Refusal(404, "Not Found")


# Who may do what


def missing(request: Handler) -> Refusal:
    """Return the refusal for a repository that is not there, or not for this user: the two look the same.

    Without a token the real Hub says 401, and the client takes that for a missing repository if the address
    begins with https; `RepoNotFound` makes it do so here too.
    """
    if request.user is None:
        return Refusal(401, "Invalid username or password.", "RepoNotFound")
    return Refusal(404, "Repository not found", "RepoNotFound")


def access(request: Handler, kind: str | None, repo_id: str, *, write: bool = False) -> Repo:
    """Return the repository if the sender may read (or write) it."""
    repo = request.hub.store.find(kind or "model", repo_id)
    owner = request.user is not None and request.user.owns(repo_id.partition("/")[0])
    if repo is None or (repo.settings.get("private") and not owner):
        raise missing(request)
    if write:
        allow_write(request, repo_id.partition("/")[0])
    return repo


def allow_write(request: Handler, namespace: str) -> None:
    """Refuse who may not write to a namespace."""
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    if not request.user.owns(namespace):
        raise Refusal(403, f'You don\'t have the rights to write to the namespace "{namespace}"')
    if request.user.role != "write":
        raise Refusal(403, "This token can read only; use one with the role write")


def allow_content(request: Handler, repo: Repo) -> None:
    """Refuse the files of a gated repository to all but its owner."""
    owner = request.user is not None and request.user.owns(repo.id.partition("/")[0])
    if repo.settings.get("gated") and not owner:
        status = 403 if request.user else 401
        raise Refusal(status, f"Access to {repo.kind} {repo.id} is restricted", "GatedRepo")


# What several routes say


def stamp(seconds: int) -> str:
    """Return a time as the Hub writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def page_url(request: Handler, repo: Repo) -> str:
    """Return the address of a repository's page."""
    prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
    return f"{request.hub.endpoint}/{prefix}{repo.id}"


def page(request: Handler, items: list, size: int) -> Answer:
    """Return one page of a list, with a `Link` header to the next."""
    start = int(request.query.get("cursor", 0))
    if start + size >= len(items):
        return answer_json(items[start:])
    rest = "&".join(f"{name}={quote(text)}" for name, text in request.query.items() if name != "cursor")
    url = f"{request.hub.endpoint}{request.url.path}?{rest}&cursor={start + size}"
    return answer_json(items[start : start + size], Link=f'<{url}>; rel="next"')
