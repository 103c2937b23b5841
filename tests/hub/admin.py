"""What the tests ask of the loopback Hub itself, under `/_admin/`: no token needed,
nothing of it in the log."""

import base64

from .faults import Fault
from .objects import Refusal
from .routes import route
from .server import Answer, Handler, answer_json


@route("GET", "/_admin/requests")
def requests(request: Handler) -> Answer:
    return answer_json(request.hub.requests())


@route("DELETE", "/_admin/requests")
def forget(request: Handler) -> Answer:
    request.hub.log.clear()
    return answer_json({})


@route("POST", "/_admin/faults")
def add_fault(request: Handler) -> Answer:
    try:
        request.hub.faults.add(Fault(**request.json()))
    except TypeError as error:
        raise Refusal(400, str(error)) from None
    return answer_json({})


@route("DELETE", "/_admin/faults")
def clear_faults(request: Handler) -> Answer:
    request.hub.faults.clear()
    return answer_json({})


@route("POST", "/_admin/quota")
def quota(request: Handler) -> Answer:
    request.hub.store.quota = request.json()["bytes"]
    return answer_json({})


@route("POST", "/_admin/foreign_commit")
def somebody_else(request: Handler) -> Answer:
    return answer_json({"oid": request.hub.store.foreign_commit(**request.json())})


@route("GET", "/_admin/repo")
def state(request: Handler) -> Answer:
    """Return refs, history and files of a repository at a revision, whoever may see it; null without it."""
    repo = request.hub.store.named(request.query["name"])
    if repo is None:
        return answer_json(None)
    oid = repo.resolve(request.query.get("revision", "main"))
    contents = {path: base64.b64encode(repo.content(file)).decode() for path, file in repo.files(oid).items()}
    large = sorted(path for path, file in repo.files(oid).items() if file.sha256)
    history = [{"oid": commit.oid, "message": commit.message} for commit in repo.history(oid)]
    found = {
        "branches": repo.refs("heads"),
        "tags": repo.refs("tags"),
        "commits": history,
        "folder": str(repo.folder),
    }
    return answer_json(found | {"files": contents, "large": large})
