"""What each address of the loopback Hub answers, and what it refuses.

A route is a function of a request and the pieces of its path. `access` decides who may do what before any of them
looks at the rest.
"""

import datetime
import json
import re
from urllib.parse import parse_qs, quote, unquote

from . import cards, commits
from .server import Answer, Handler, Hub, answer_json
from .store import Commit, File, Refusal, Repo, check_name

ROUTES: list[tuple[str, re.Pattern, object]] = []
KIND = "(?P<kind>model|dataset|space)s"
REPO = f"/api/{KIND}/(?P<repo_id>[^/]+/[^/]+)"
RESOLVE = "(?:/(?P<kind>dataset|space)s)?/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
GIT_ATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in commits.LARGE_SUFFIXES
)


def route(methods: str, pattern: str):
    """Register a function for methods and a pattern of the (quoted) path; named groups become its arguments."""

    def register(function):
        ROUTES.append((methods, re.compile(pattern), function))
        return function

    return register


def answer(request: Handler) -> Answer:
    """Find the route and follow it."""
    if request.storage:
        from .large import storage

        return storage(request)
    if request.headers.get("Authorization") and request.user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    known = False
    for methods, pattern, function in ROUTES:
        if found := pattern.fullmatch(request.url.path):
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

    Without a token the real Hub says 401, and the client takes that for a missing repository if the address begins
    with https; `RepoNotFound` makes it do so here too.
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


# Repositories


@route("GET", "/api/whoami-v2")
def whoami(request: Handler) -> Answer:
    user = request.user
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    organizations = [{"type": "org", "name": name, "roleInOrg": user.role} for name in user.organizations]
    token = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": user.role}}
    return answer_json(
        {"type": "user", "name": user.name, "fullname": user.name, "orgs": organizations, "auth": token}
    )


def page_url(request: Handler, repo: Repo) -> str:
    """Return the address of a repository's page."""
    prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
    return f"{request.hub.endpoint}/{prefix}{repo.id}"


@route("POST", "/api/repos/create")
def create(request: Handler) -> Answer:
    data = request.json()
    kind = data.get("type") or "model"
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    namespace = data.get("organization") or request.user.name
    if kind not in ("model", "dataset", "space"):
        raise Refusal(400, f"Unknown type of repository: {kind!r}")
    if kind == "space" and data.get("sdk") not in cards.SDKS:
        raise Refusal(400, f'"sdk" must be one of {", ".join(cards.SDKS)}')
    allow_write(request, namespace)
    repo_id = check_name(f"{namespace}/{data.get('name')}")
    private = data.get("visibility") == "private" or bool(data.get("private"))
    with request.hub.store.lock:
        if repo := request.hub.store.find(kind, repo_id):
            no = {"error": f"You already created this {kind} repo", "url": page_url(request, repo)}
            return answer_json(no, 409)
        repo = request.hub.store.create(kind, repo_id, private=private, gated=False, sdk=data.get("sdk"))
        files = [commits.Add(".gitattributes", GIT_ATTRIBUTES.encode())]
        if kind == "space":
            card = f"---\ntitle: {data['name']}\nsdk: {data['sdk']}\n---\n"
            files.append(commits.Add("README.md", card.encode()))
        repo.put_commit("main", files, summary="initial commit", author=request.user.name)
    return answer_json({"url": page_url(request, repo), "name": repo.id, "private": private})


@route("DELETE", "/api/repos/delete")
def delete(request: Handler) -> Answer:
    data = request.json()
    namespace = data.get("organization") or (request.user.name if request.user else "")
    repo = access(request, data.get("type"), f"{namespace}/{data.get('name')}", write=True)
    request.hub.store.delete(repo)
    return answer_json({})


@route("PUT", REPO + "/settings")
def settings(request: Handler, kind: str, repo_id: str) -> Answer:
    repo, data = access(request, kind, repo_id, write=True), request.json()
    changes = {name: data[name] for name in ("private", "gated") if name in data}
    if "visibility" in data:
        changes["private"] = data["visibility"] == "private"
    repo.change_settings(**changes)
    return answer_json(changes)


@route("GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(request: Handler, kind: str, repo_id: str, write: str | None) -> Answer:
    allow_content(request, access(request, kind, repo_id, write=bool(write)))
    return answer_json({})


@route("GET", f"/api/{KIND}")
def listing(request: Handler, kind: str) -> Answer:
    found = []
    for repo in request.hub.store.all(kind):
        owner, name = repo.id.split("/")
        hidden = repo.settings.get("private") and not (request.user and request.user.owns(owner))
        if (
            not hidden
            and request.query.get("author", owner) == owner
            and request.query.get("search", "") in name
        ):
            found.append(info(repo, repo.resolve("main"), request.query))
    return answer_json(found)


@route("GET", REPO + "(?:/revision/(?P<revision>[^/]+))?")
def repo_info(request: Handler, kind: str, repo_id: str, revision: str | None) -> Answer:
    repo = access(request, kind, repo_id)
    return answer_json(info(repo, repo.resolve(revision or "main"), request.query))


def stamp(seconds: int) -> str:
    """Return a time as the Hub writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def info(repo: Repo, oid: str, query: dict[str, str]) -> dict:
    """Return what the Hub says about a repository at a commit."""
    files = repo.files(oid)
    siblings = []
    for path, file in files.items():
        more = {}
        if query.get("blobs", "").lower() in ("1", "true"):
            more = {"blobId": file.oid, "size": file.size}
            if file.sha256:
                size = len(repo.get(file.oid))
                more["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": size}
        siblings.append({"rfilename": path} | more)
    card = None
    if "README.md" in files:
        try:
            card = cards.metadata(repo.content(files["README.md"]).decode())
        except (ValueError, cards.yaml.YAMLError):
            card = None
    tags = (card or {}).get("tags") or []
    found = repo.settings
    return {
        "_id": oid[:24], "id": repo.id, "modelId": repo.id, "author": repo.id.partition("/")[0], "sha": oid,
        "lastModified": stamp(repo.commit(oid).date), "createdAt": stamp(found["created"]),
        "private": bool(found.get("private")), "gated": found.get("gated", False), "disabled": False,
        "downloads": 0, "likes": 0, "tags": tags if isinstance(tags, list) else [tags], "siblings": siblings,
        "cardData": card, "sdk": found.get("sdk"), "usedStorage": repo.used(),
    }  # fmt: skip


# Branches, tags, commits


@route("GET", REPO + "/refs")
def refs(request: Handler, kind: str, repo_id: str) -> Answer:
    repo = access(request, kind, repo_id)
    branches, tags = (
        [{"name": name, "ref": f"refs/{k}/{name}", "targetCommit": oid} for name, oid in repo.refs(k).items()]
        for k in ("heads", "tags")
    )
    return answer_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("POST DELETE", REPO + "/(?P<what>branch|tag)/(?P<name>[^/]+)")
def change_ref(request: Handler, kind: str, repo_id: str, what: str, name: str) -> Answer:
    repo, data = access(request, kind, repo_id, write=True), request.json()
    where = "heads" if what == "branch" else "tags"
    with repo.lock:
        if request.command == "DELETE":
            if (where, name) == ("heads", "main"):
                raise Refusal(403, "The branch main cannot be deleted")
            repo.delete_ref(where, name)
            return answer_json({})
        # a branch is named in the address and its start in the body; with tags it is the other way round
        start, name = (
            (data.get("startingPoint", "main"), name) if what == "branch" else (name, data.get("tag"))
        )
        if not isinstance(name, str):
            raise Refusal(400, '"tag" is required')
        if name in repo.refs(where):
            raise Refusal(409, f"Reference already exists: {name}")
        repo.set_ref(where, name, repo.resolve(start))
    return answer_json({})


@route("GET", REPO + "/commits/(?P<revision>[^/]+)")
def history(request: Handler, kind: str, repo_id: str, revision: str) -> Answer:
    repo = access(request, kind, repo_id)
    found = []
    for commit in repo.history(repo.resolve(revision)):
        title, _, message = commit.message.partition("\n\n")
        authors = [{"user": commit.author}]
        found.append(
            {
                "id": commit.oid,
                "title": title,
                "message": message,
                "date": stamp(commit.date),
                "authors": authors,
            }
        )
    return page(request, found, 50)


# Files


def page(request: Handler, items: list, size: int) -> Answer:
    """Return one page of a list, with a `Link` header to the next."""
    start = int(request.query.get("cursor", 0))
    if start + size >= len(items):
        return answer_json(items[start:])
    rest = "&".join(f"{name}={quote(text)}" for name, text in request.query.items() if name != "cursor")
    url = f"{request.hub.endpoint}{request.url.path}?{rest}&cursor={start + size}"
    return answer_json(items[start : start + size], Link=f'<{url}>; rel="next"')


def file_info(repo: Repo, file: File) -> dict:
    """Return a file as trees list it."""
    found = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.sha256:
        found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(repo.get(file.oid))}
    return found


def with_last_commit(repo: Repo, oid: str, items: list[dict]) -> list[dict]:
    """Add the commit that last changed each item."""

    def short(commit: Commit) -> dict:
        return {"id": commit.oid, "title": commit.message.partition("\n\n")[0], "date": stamp(commit.date)}

    return [item | {"lastCommit": short(repo.last_change(oid, item["path"]))} for item in items]


@route("GET", REPO + "/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
def tree(request: Handler, kind: str, repo_id: str, revision: str, path: str | None) -> Answer:
    repo = access(request, kind, repo_id)
    allow_content(request, repo)
    oid = repo.resolve(revision)
    folders = repo.folders(oid)
    if path and path not in folders:
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    items = [{"type": "directory", "oid": name, "size": 0, "path": p} for p, name in folders.items()]
    items += [file_info(repo, file) for file in repo.files(oid).values()]
    prefix = path + "/" if path else ""
    deep = request.query.get("recursive", "").lower() in ("1", "true")
    items = [
        i for i in items if i["path"].startswith(prefix) and (deep or "/" not in i["path"][len(prefix) :])
    ]
    if request.query.get("expand", "").lower() in ("1", "true"):
        return page(request, with_last_commit(repo, oid, items), 50)
    return page(request, items, 1_000)


@route("POST", REPO + "/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Handler, kind: str, repo_id: str, revision: str) -> Answer:
    repo = access(request, kind, repo_id)
    body = request.body().decode()
    asked = json.loads(body) if body.startswith("{") else parse_qs(body)
    paths = asked.get("paths", [])
    if len(paths) > 1_000:
        raise Refusal(413, "too many parameters")
    oid = repo.resolve(revision)
    files, folders = repo.files(oid), repo.folders(oid)
    items = [file_info(repo, files[path]) for path in paths if path in files]
    items += [{"type": "directory", "oid": folders[p], "size": 0, "path": p} for p in paths if p in folders]
    expand = asked.get("expand", [False])
    expand = expand[0] if isinstance(expand, list) else expand
    return answer_json(with_last_commit(repo, oid, items) if str(expand).lower() == "true" else items)


@route("GET HEAD", RESOLVE)
def resolve(request: Handler, kind: str | None, repo_id: str, revision: str, path: str) -> Answer:
    repo = access(request, kind, repo_id)
    allow_content(request, repo)
    oid = repo.resolve(revision)
    file = repo.files(oid).get(path)
    headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
    if file is None:
        headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return answer_json({"error": "Entry not found"}, 404, **headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.sha256:
        where = request.hub.sign(f"/{repo.kind}s/{repo.id}/{file.sha256}")
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": headers["ETag"]}
        return Answer(b"", 302, headers | {"Location": request.hub.storage + where})
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Answer(b"", 304, headers)
    return part(
        request, Answer(repo.get(file.oid), 200, headers | {"Content-Type": "text/plain; charset=utf-8"})
    )


def part(request: Handler, whole: Answer) -> Answer:
    """Return the part that a `Range` header asks for, or all."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not found or found[0] == "bytes=-":
        return whole
    size = whole.size
    if found[1]:
        start, stop = int(found[1]), min(size, int(found[2] or size) + 1)
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= size:
        return Answer(b"", 416, whole.headers | {"Content-Range": f"bytes */{size}"})
    span = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(whole.body, 206, whole.headers | span, start, stop)


def named_repo(hub: Hub, name: str) -> Repo | None:
    """Return the repository called `model ann/name`."""
    return hub.store.find(*name.split(" "))


def foreign_commit(hub: Hub, repo: str, files: dict[str, str], branch: str = "main") -> str:
    """Commit small files as somebody else would, return the commit."""
    changes = [commits.Add(path, text.encode()) for path, text in files.items()]
    return named_repo(hub, repo).put_commit(branch, changes, summary="From elsewhere", author="bob").oid


from . import admin, large  # noqa: E402, F401  they register routes of their own
