"""Pushing: which files are large, their bytes over LFS, and the commit that names them."""

import base64
import hashlib
import hmac
import os
import re
import tempfile
from fnmatch import fnmatch

from . import cards
from .commits import is_large, parse
from .files import part
from .objects import Add, Refusal
from .routes import KIND, REPO, access, page_url, route
from .server import Answer, Handler, answer_json
from .store import Repo

LFS = "(?:/(?P<kind>dataset|space)s)?/(?P<repo_id>[^/]+/[^/]+)\\.git/info/lfs"
STORED = f"/{KIND}/(?P<repo_id>[^/]+/[^/]+)/(?P<sha256>[0-9a-f]{{64}})"


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Handler) -> Answer:
    data = request.json()
    errors, warnings = cards.validate(data.get("content", ""), data.get("repoType", "model"))
    said = {
        name: [{"message": text} for text in texts]
        for name, texts in (("errors", errors), ("warnings", warnings))
    }
    return answer_json(said, 400 if errors else 200)


@route("POST", REPO + "/preupload/(?P<revision>[^/]+)")
def preupload(request: Handler, kind: str, repo_id: str, revision: str) -> Answer:
    repo, data = access(request, kind, repo_id, write=True), request.json()
    oid = repo.resolve(revision)
    files = repo.files(oid)
    attributes = repo.content(files[".gitattributes"]).decode() if ".gitattributes" in files else ""
    ignored = data.get("gitIgnore")
    if ignored is None and ".gitignore" in files:
        ignored = repo.content(files[".gitignore"]).decode()
    said = []
    for item in data.get("files", []):
        large = is_large(item["path"], item["size"], base64.b64decode(item["sample"]), attributes)
        one = {"path": item["path"], "uploadMode": "lfs" if large else "regular"}
        one["shouldIgnore"] = is_ignored(item["path"], ignored or "")
        if item["path"] in files:
            one["oid"] = files[item["path"]].etag
        said.append(one)
    return answer_json({"files": said, "commitOid": oid})


def is_ignored(path: str, patterns: str) -> bool:
    """Return whether a `.gitignore` of plain patterns (no `!`, no `**`) names a path."""
    names = path.split("/")
    lines = [line.strip() for line in patterns.splitlines() if line.strip() and not line.startswith("#")]
    return any(
        fnmatch(path, line) or any(fnmatch(name, line.rstrip("/")) for name in names) for line in lines
    )


@route("POST", LFS + "/objects/batch")
def batch(request: Handler, kind: str | None, repo_id: str) -> Answer:
    repo, data = access(request, kind, repo_id, write=True), request.json()
    if data.get("operation") != "upload" or data.get("hash_algo", "sha256") != "sha256":
        raise Refusal(422, "Only uploads named by sha256 are spoken here")
    said, new = [], 0
    for item in data.get("objects", []):
        sha256, size = item.get("oid"), item.get("size")
        if not isinstance(size, int) or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
            raise Refusal(422, f"No LFS object: {item!r}")
        one = {"oid": sha256, "size": size}
        if not repo.large(sha256).exists():
            new += size
            put = request.hub.storage + request.hub.sign(f"/{repo.kind}s/{repo.id}/{sha256}/{size}")
            prefix = page_url(request, repo)
            one["authenticated"] = True
            one["actions"] = {
                "upload": {"href": put},
                "verify": {"href": f"{prefix}.git/info/lfs/objects/verify"},
            }
        said.append(one)
    request.hub.store.check_quota(repo.id.partition("/")[0], new)
    return answer_json({"transfer": "basic", "objects": said})


@route("POST", LFS + "/objects/verify")
def verify(request: Handler, kind: str | None, repo_id: str) -> Answer:
    repo, data = access(request, kind, repo_id, write=True), request.json()
    there = repo.large(str(data.get("oid")))
    if not re.fullmatch("[0-9a-f]{64}", there.name) or not there.exists():
        raise Refusal(404, f"No such LFS object: {there.name}")
    if there.stat().st_size != data.get("size"):
        raise Refusal(
            422, f"LFS object {there.name} holds {there.stat().st_size} bytes, not {data.get('size')}"
        )
    return answer_json({})


@route("POST", REPO + "/commit/(?P<revision>[^/]+)")
def commit(request: Handler, kind: str, repo_id: str, revision: str) -> Answer:
    repo = access(request, kind, repo_id, write=True)
    if "ndjson" not in request.headers.get("Content-Type", ""):
        raise Refusal(400, "A commit is sent as application/x-ndjson")
    if request.query.get("create_pr"):
        raise Refusal(400, "This loopback Hub has no pull requests")
    header, changes = parse(request.body())
    for change in changes:
        if isinstance(change, Add) and change.path == "README.md":
            cards.check(change.content.decode("utf-8", "replace"), repo.kind)
    made = repo.put_commit(
        revision, changes, summary=header["summary"], description=header.get("description") or "",
        author=request.user.name, parent=header.get("parentCommit"),
    )  # fmt: skip
    url = f"{page_url(request, repo)}/commit/{made.oid}"
    return answer_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def signed(request: Handler, kind: str, repo_id: str) -> Repo:
    """Return the repository whose storage a signed address opens."""
    signature = request.hub.sign(request.url.path).rpartition("=")[2]
    if not hmac.compare_digest(signature, request.query.get("signature", "")):
        raise Refusal(403, "SignatureDoesNotMatch")
    if request.headers.get("Authorization"):
        raise Refusal(400, "Only one auth mechanism allowed: the signature; a token does not belong here")
    repo = request.hub.store.find(kind, repo_id)
    if repo is None:
        raise Refusal(404, "NoSuchBucket")
    return repo


@route("GET HEAD", STORED, storage=True)
def stored(request: Handler, kind: str, repo_id: str, sha256: str) -> Answer:
    repo = signed(request, kind, repo_id)
    if not repo.large(sha256).exists():
        raise Refusal(404, "NoSuchKey")
    headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
    return part(request, Answer(repo.large(sha256), 200, headers))


@route("PUT", STORED + "/(?P<size>[0-9]+)", storage=True)
def store(request: Handler, kind: str, repo_id: str, sha256: str, size: str) -> Answer:
    """Store an LFS object, if it is what was announced; what is cut or wrong leaves nothing behind."""
    repo = signed(request, kind, repo_id)
    got, digest = 0, hashlib.sha256()
    handle, name = tempfile.mkstemp(dir=repo.folder / "lfs", prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in request.chunks():
                got += len(piece)
                digest.update(piece)
                file.write(piece)
        if got != int(size):
            raise Refusal(400, f"EntityTooSmall or EntityTooLarge: {got} bytes came, {size} were announced")
        if digest.hexdigest() != sha256:
            raise Refusal(400, "BadDigest: the bytes that came are not those that were announced")
        os.replace(name, repo.large(sha256))
    finally:
        if os.path.exists(name):
            os.unlink(name)
    return Answer(b"", 200, {"ETag": f'"{sha256}"'})
