"""Repositories, branches, tags and commits: what there is, making and deleting it."""

from . import cards
from .commits import LARGE_SUFFIXES
from .objects import Add, Refusal, check_name
from .routes import KIND, REPO, access, allow_content, allow_write, page, page_url, route, stamp
from .server import Answer, Handler, answer_json
from .store import Repo

GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES)


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
        files = [Add(".gitattributes", GIT_ATTRIBUTES.encode())]
        if kind == "space":
            card = f"---\ntitle: {data['name']}\nsdk: {data['sdk']}\n---\n"
            files.append(Add("README.md", card.encode()))
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
