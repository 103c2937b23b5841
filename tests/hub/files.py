"""Trees and the bytes of files."""

import json
import re
from urllib.parse import parse_qs

from .objects import Commit, File, Refusal
from .routes import REPO, access, allow_content, page, route, stamp
from .server import Answer, Handler, answer_json
from .store import Repo

RESOLVE = "(?:/(?P<kind>dataset|space)s)?/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"


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
