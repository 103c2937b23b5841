"""The loopback Hub through the real clients: what it serves, what it refuses,
what it does when told to fail."""

import hashlib
import http.client
import importlib.metadata
import json
import subprocess
import textwrap
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from .hub.client import nowhere
from .programs import ROOT

# What a snippet begins with: `caught(f)` gives the name of the exception that `f` raised, its status and its
# text.
CLIENT = """
from huggingface_hub import (CommitOperationAdd as Add, CommitOperationCopy as Copy, CommitOperationDelete as Delete,
    HfApi, HfFileSystem, hf_hub_download, snapshot_download)
api, result = HfApi(), {}
LARGE = bytes(range(256)) * 64

def caught(f):
    try:
        return f()
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, getattr(response, "status_code", None), str(error)]

def outcome(f):
    found = caught(f)
    return found[:2] if isinstance(found, list) else found

def push(repo, path="a.txt", content=b"text", **more):
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo, **more).oid
"""
LARGE = bytes(range(256)) * 64
OLD = importlib.metadata.version("huggingface_hub").startswith(
    "1."
)  # reads no Retry-After, gives up when cut off


def client(hub, code: str, **more):
    """Run a snippet after `CLIENT` in a process of its own, return its `result`."""
    return hub.run(CLIENT + textwrap.dedent(code), **more)


def ask(hub, method: str, url: str, body: bytes = b"", token: str | None = "ann/write", **headers: str):
    """Send a request that no client would; return status, body and headers."""
    if token:
        headers["Authorization"] = "Bearer " + hub.tokens.get(token, token)
    url = url if url.startswith("http") else hub.endpoint + url
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body or None, headers, method=method)
        ) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.fixture
def repo(hub, request) -> str:
    """Return a fresh model repository of ann's, named after the test."""
    name = f"ann/{request.node.name.replace('_', '-').strip('[]')}"
    body = json.dumps({"name": name.partition("/")[2], "type": "model"}).encode()
    assert ask(hub, "POST", "/api/repos/create", body)[0] == 200
    return name


@pytest.mark.integration
def test_repositories_come_and_go(hub):
    result = client(
        hub,
        """
        for kind, more in (("model", {}), ("dataset", {}), ("space", {"space_sdk": "gradio"})):
            found = result[kind] = {}
            found["url"] = str(api.create_repo("ann/three", repo_type=kind, **more))
            found["again"] = str(api.create_repo("ann/three", repo_type=kind, exist_ok=True, **more))
            found["twice"] = caught(lambda: api.create_repo("ann/three", repo_type=kind, **more))[:2]
            found["exists"] = api.repo_exists("ann/three", repo_type=kind)
            info = api.repo_info("ann/three", repo_type=kind)
            found["info"] = [info.id, info.author, info.private, [file.rfilename for file in info.siblings]]
            api.delete_repo("ann/three", repo_type=kind)
            api.delete_repo("ann/three", repo_type=kind, missing_ok=True)
            missing = caught(lambda: api.delete_repo("ann/three", repo_type=kind))[:2]
            found["gone"] = [api.repo_exists("ann/three", repo_type=kind), missing]
        result["bare name"] = api.create_repo("bare").repo_id
        result["organization"] = [api.create_repo(name).repo_id for name in ("lab/shared", "lab/other", "ann/shared")][0]
        result["listed"] = [found.id for found in api.list_models(author="lab", search="share")]
        result["whoami"] = [api.whoami()["name"], [found["name"] for found in api.whoami()["orgs"]]]
        """,
    )
    for kind, prefix in (("model", ""), ("dataset", "/datasets"), ("space", "/spaces")):
        found, files = result[kind], [".gitattributes"] + ["README.md"] * (kind == "space")
        assert found["url"] == found["again"] == f"{hub.endpoint}{prefix}/ann/three"
        assert found["twice"] == ["HfHubHTTPError", 409]
        assert found["exists"] and found["info"] == ["ann/three", "ann", False, files]
        assert found["gone"] == [False, ["RepositoryNotFoundError", 404]]
    assert (result["bare name"], result["organization"], result["listed"]) == (
        "ann/bare",
        "lab/shared",
        ["lab/shared"],
    )
    assert result["whoami"] == ["ann", ["lab"]]


def test_commits_files_and_refs(hub, repo, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.txt").write_text("one")
    (tmp_path / "weights.safetensors").write_bytes(LARGE)
    result = client(
        hub,
        f"""
repo, folder = {repo!r}, {str(tmp_path)!r}
first = api.upload_folder(folder_path=folder, repo_id=repo, commit_message="folder").oid
result["same"] = [api.upload_folder(folder_path=folder, repo_id=repo).oid == first, push(repo, "sub/one.txt", b"one") == first]
operations = [Add("two.txt", b"two"), Add("other.bin", LARGE), Copy("weights.safetensors", "copy.safetensors"),
    Delete("sub/"), Add("empty.bin", b"")]
made = api.create_commit(repo, operations, commit_message="several", commit_description="at once", parent_commit=first)
result["url"] = made.commit_url.endswith(f"/{{repo}}/commit/{{made.oid}}")
result["stale"] = caught(lambda: push(repo, "three.txt", parent_commit=first))
result["delete"] = caught(lambda: api.delete_file("nothing.txt", repo))[:2]
api.create_branch(repo, branch="step/100", revision=first)
api.create_tag(repo, tag="v1", revision=first, tag_message="the first")
result["exist"] = [caught(lambda: api.create_branch(repo, branch="step/100"))[1], caught(lambda: api.create_tag(repo, tag="v1"))[1]]
api.create_branch(repo, branch="step/100", exist_ok=True); api.create_tag(repo, tag="v1", exist_ok=True)
push(repo, "branch.txt", revision="step/100")
result["bad"] = [caught(lambda: api.create_branch(repo, branch=name))[:2] for name in ("refs/pr/1", "a..b")]
result["unknown"] = [caught(f)[:2] for f in (lambda: api.create_tag(repo, tag="v2", revision="nowhere"),
    lambda: push(repo, "b.txt", revision="nowhere"), lambda: push(repo, "b.txt", revision="v1"),
    lambda: api.repo_info(repo, revision="0" * 40), lambda: api.delete_tag(repo, tag="v9"))]
refs = api.list_repo_refs(repo)
result["refs"] = [sorted(b.name for b in refs.branches), [t.name for t in refs.tags]]
result["tagged"] = refs.tags[0].target_commit == first == api.repo_info(repo, revision="refs/tags/v1").sha
result["log"] = [[c.title, c.message, c.authors] for c in api.list_repo_commits(repo)]
tree = list(api.list_repo_tree(repo, expand=True))
result["tree"] = [[f.path, f.size, f.lfs and f.lfs.sha256, f.last_commit.title] for f in tree if f.path != ".gitattributes"]
result["top"] = sorted(f.path for f in api.list_repo_tree(repo, revision="v1"))
result["old"] = sorted(f.path for f in api.list_repo_tree(repo, recursive=True, revision="v1"))
result["folder"] = [f.path for f in api.list_repo_tree(repo, "sub", revision="v1")]
result["info"] = [[f.path, hasattr(f, "size")] for f in api.get_paths_info(repo, ["sub/one.txt", "sub", "none"], revision=first)]
api.delete_branch(repo, branch="step/100"); api.delete_tag(repo, tag="v1")
result["main"] = caught(lambda: api.delete_branch(repo, branch="main"))[:2]
""",
    )
    digest = hashlib.sha256(LARGE).hexdigest()
    assert result["same"] == [True, True] and result["url"]
    assert (
        result["stale"][:2] == ["HfHubHTTPError", 412] and "commit has happened since" in result["stale"][2]
    )
    assert result["delete"] == ["RemoteEntryNotFoundError", 404]
    assert result["exist"] == [409, 409] and result["bad"] == [["BadRequestError", 400]] * 2
    assert result["unknown"] == [["RevisionNotFoundError", 404]] * 5
    assert result["refs"] == [["main", "step/100"], ["v1"]] and result["tagged"]
    assert result["log"] == [
        ["several", "at once", ["ann"]],
        ["folder", "", ["ann"]],
        ["initial commit", "", ["ann"]],
    ]
    assert sorted(result["tree"]) == [
        ["copy.safetensors", len(LARGE), digest, "several"],
        ["empty.bin", 0, None, "several"],
        ["other.bin", len(LARGE), digest, "several"],
        ["two.txt", 3, None, "several"],
        ["weights.safetensors", len(LARGE), digest, "folder"],
    ]
    assert result["old"] == [".gitattributes", "sub", "sub/one.txt", "weights.safetensors"]
    assert result["top"] == [".gitattributes", "sub", "weights.safetensors"]
    assert result["folder"] == ["sub/one.txt"] and result["info"] == [["sub/one.txt", True], ["sub", False]]
    assert result["main"] == ["HfHubHTTPError", 403]
    state = hub.repo(f"model {repo}")
    assert state.branches.keys() == {"main"} and not state.tags
    assert state.large == ["copy.safetensors", "other.bin", "weights.safetensors"]
    assert state.files["copy.safetensors"] == LARGE and state.files["two.txt"] == b"two"
    assert len(hub.requests("PUT")) == 1, "the same bytes went up more than once"
    git = subprocess.run(
        ["git", "--git-dir", state.folder, "fsck", "--strict"], capture_output=True, text=True
    )
    assert git.returncode == 0, git.stderr


def test_downloads(hub, repo, tmp_path):
    result = client(
        hub,
        f"""
        from huggingface_hub.utils import get_session
        repo = {repo!r}
        push(repo, "a.txt", b"old"); push(repo, "w.bin", LARGE)
        api.create_tag(repo, tag="v1")
        push(repo, "a.txt", b"new")
        read = lambda **more: open(hf_hub_download(repo, **more), "rb").read()
        result["text"] = [read(filename="a.txt").decode(), read(filename="a.txt", revision="v1").decode()]
        result["large"] = [read(filename="w.bin") == LARGE for _ in range(2)]
        result["snapshot"] = open(snapshot_download(repo, revision="v1") + "/a.txt").read()
        result["missing"] = [caught(lambda: read(filename="no.txt"))[:2], caught(lambda: read(filename="a.txt", revision="no"))[:2],
            caught(lambda: hf_hub_download("ann/nothing", "a.txt"))[:2], caught(lambda: hf_hub_download("gpt2", "a.txt"))[:2]]
        fs = HfFileSystem()
        result["list"] = sorted(name.rpartition("/")[2] for name in fs.ls(repo, detail=False))
        with fs.open(f"{{repo}}/w.bin", block_size=1000) as file:
            file.seek(5000); result["range"] = file.read(10) == LARGE[5000:5010]
        with fs.open(f"{{repo}}@v1/a.txt") as file:
            result["at tag"] = file.read().decode()
        with fs.open(f"{{repo}}/written.txt", "w") as file:
            file.write("by fsspec")
        url = api.endpoint + f"/{{repo}}/resolve/main/a.txt"
        answers = [get_session().get(url, headers={{"Range": f"bytes={{r}}"}}) for r in ("1-1", "1-", "-2", "0-99", "7-")]
        result["ranges"] = [[a.status_code, a.text, a.headers.get("Content-Range")] for a in answers]
        etag = answers[0].headers["ETag"]
        result["unchanged"] = get_session().get(url, headers={{"If-None-Match": etag}}).status_code
        """,
        HF_HOME=str(tmp_path),
    )
    assert (
        result["text"] == ["new", "old"] and result["large"] == [True, True] and result["snapshot"] == "old"
    )
    assert (
        result["missing"]
        == [["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]]
        + [["RepositoryNotFoundError", 404]] * 2
    )
    assert result["list"] == [".gitattributes", "a.txt", "w.bin"]
    assert result["range"] and result["at tag"] == "old"
    assert result["ranges"] == [
        [206, "e", "bytes 1-1/3"],
        [206, "ew", "bytes 1-2/3"],
        [206, "ew", "bytes 1-2/3"],
        [206, "new", "bytes 0-2/3"],
        [416, "", "bytes */3"],
    ]
    assert result["unchanged"] == 304
    assert hub.repo(f"model {repo}").files["written.txt"] == b"by fsspec"
    whole = [
        seen for seen in hub.requests("GET", hashlib.sha256(LARGE).hexdigest()) if seen["sent"] == len(LARGE)
    ]
    assert len(whole) == 1, "a cached file was fetched again"
    assert 1000 <= hub.requests("GET", hashlib.sha256(LARGE).hexdigest())[-1]["sent"] < len(LARGE)


@pytest.mark.integration
def test_who_may_do_what(hub, tmp_path):
    code = """
        for name in ("ann/may-private", "ann/may-gated", "ann/may-open", "ann/nothing"):
            result[name] = [outcome(lambda: api.repo_info(name).id), outcome(lambda: open(hf_hub_download(name, "a.txt")).read()),
                outcome(lambda: push(name, "b.txt", b"more"))]
        result["create"] = outcome(lambda: api.create_repo("ann/new"))
        result["whoami"] = outcome(lambda: api.whoami()["name"])
        """
    client(
        hub,
        """
        for name in ("private", "gated", "open"):
            api.create_repo("may-" + name, private=name == "private"); push("ann/may-" + name)
        api.update_repo_settings("ann/may-gated", gated="manual")
        """,
    )
    missing, none = ["RepositoryNotFoundError", 404], ["RepositoryNotFoundError", 401]
    forbidden, gated = ["HfHubHTTPError", 403], ["GatedRepoError", 403]
    users = ["ann/read", "bob/write", None, "hf_notAToken"]
    with ThreadPoolExecutor() as pool:
        homes = [str(tmp_path / str(i)) for i in range(4)]
        results = pool.map(lambda user, home: client(hub, code, user=user, HF_HOME=home), users, homes)
        reader, bob, nobody, wrong = results
    for name in ("private", "gated", "open"):
        assert reader[f"ann/may-{name}"] == [f"ann/may-{name}", "text", forbidden]
    assert reader["create"] == forbidden
    assert bob["ann/may-private"] == bob["ann/nothing"] == [missing] * 3
    assert bob["ann/may-gated"] == ["ann/may-gated", gated, forbidden]
    assert bob["ann/may-open"] == ["ann/may-open", "text", forbidden]
    assert nobody["ann/may-private"] == nobody["ann/nothing"] == [none] * 3
    assert nobody["ann/may-open"] == ["ann/may-open", "text", ["HfHubHTTPError", 401]]
    assert nobody["create"] == ["HfHubHTTPError", 401]
    assert wrong["ann/may-open"] + [wrong["create"], wrong["whoami"]] == [["HfHubHTTPError", 401]] * 5
    assert {seen["user"] for seen in hub.requests()} == {"ann/write", "ann/read", "bob/write", None}
    assert not any("hf_" in str(seen) for seen in hub.requests()), "a token in the log"


def test_what_no_client_would_send_is_refused(hub, repo):
    commit, header = f"/api/models/{repo}/commit/main", {"key": "header", "value": {"summary": "s"}}
    head = hub.repo(f"model {repo}").branches["main"]
    upload = json.dumps(
        {"operation": "upload", "objects": [{"oid": hashlib.sha256(LARGE).hexdigest(), "size": len(LARGE)}]}
    )
    batch = json.loads(ask(hub, "POST", f"/{repo}.git/info/lfs/objects/batch", upload.encode())[1])
    put = batch["objects"][0]["actions"]["upload"]["href"]

    def send(*lines, **headers) -> int:
        body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        return ask(hub, "POST", commit, body, **({"Content_Type": "application/x-ndjson"} | headers))[0]

    def file(path: str, content: str = "dGV4dA==") -> dict:
        return {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}

    def large(**more) -> dict:
        value = {
            "path": "w.bin",
            "algo": "sha256",
            "oid": hashlib.sha256(LARGE).hexdigest(),
            "size": len(LARGE),
        }
        return {"key": "lfsFile", "value": value | more}

    assert [
        send(*lines)
        for lines in (
            [b"{"],
            [file("a")],
            [header, header],
            [header, {"key": "what", "value": {"path": "a"}}],
            [{"key": "header", "value": {"summary": ""}}],
            [header, file("a", "no base64!")],
            [header, b"[1]"],
            [],
        )
    ] == [400] * 8
    paths = ("../a", "a/../../b", "/etc/passwd", ".git/config", "a//b", "a\\b", "", ".")
    assert [send(header, file(path)) for path in paths] == [400] * len(paths)
    assert (
        send(header, file("a"), file("a/b")) == 400
        and send(header, file("a"), Content_Type="text/plain") == 400
    )
    assert send(header, file("README.md", "LS0tCmxpY2Vuc2U6IG5vbmUtc3VjaAotLS0K")) == 400, (
        "a license that there is not"
    )
    assert send(header, large()) == 400, "a pointer to what was never uploaded"
    assert [ask(hub, "PUT", put, body, token=None)[0] for body in (LARGE[1:], LARGE + b"x", LARGE[::-1])] == [
        400
    ] * 3
    assert ask(hub, "PUT", put, LARGE)[0] == 400, "the storage wants no token"
    assert ask(hub, "PUT", put[:-1] + "g", LARGE, token=None)[0] == 403
    assert send(header, large()) == 400
    assert ask(hub, "PUT", put, LARGE, token=None)[0] == 200
    verify = f"/{repo}.git/info/lfs/objects/verify"
    sizes = [
        json.dumps({"oid": hashlib.sha256(LARGE).hexdigest(), "size": len(LARGE) + extra}).encode()
        for extra in (1, 0)
    ]
    assert [ask(hub, "POST", verify, body)[0] for body in sizes] == [422, 200]
    assert send(header, large(size=1)) == 400 and send(header, large(oid="xyz")) == 400
    assert hub.repo(f"model {repo}").branches["main"] == head, "a refused commit moved the branch"
    assert send(header, large()) == 200
    names = ("a--b", "a..b", ".a", "a.git", "a b", "x" * 97, "")
    assert [ask(hub, "POST", "/api/repos/create", json.dumps({"name": n}).encode())[0] for n in names] == [
        400
    ] * len(names)
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "s", "type": "space"}')[0] == 400, (
        "a Space without sdk"
    )
    assert ask(hub, "GET", "/api/models/ann/x/security-scan")[0] == 404 and ask(hub, "PUT", commit)[0] == 405


def test_a_lost_answer_has_had_its_effect(hub, repo):
    for first, fields in enumerate(({"cut_received": 0}, {"cut_sent": 0}, {"cut_sent": 1}), 1):
        hub.fault("/tag/main", first=first, **fields)
    cut = []
    for name in "abc":
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)) as error:
            ask(hub, "POST", f"/api/models/{repo}/tag/main", json.dumps({"tag": name}).encode())
        cut.append(error.type.__name__)
    assert cut[1:] == ["RemoteDisconnected", "IncompleteRead"]
    assert hub.repo(f"model {repo}").tags.keys() == {"b", "c"}


def test_cards_are_validated(hub, repo):
    card = (
        "---\nlicense: mit\ntags: [icl]\nmodel-index:\n- name: m\n  results:\n  - task: "
        "{type: text-generation}\n"
    )
    good = (
        card + "    dataset: {type: d, name: d}\n    metrics: [{type: accuracy, value: 0.5}]\n---\n# Card\n"
    )
    bad = {
        "syntax": "---\nlicense: [\n---\n",
        "open": "---\nlicense: mit\n",
        "license": "---\nlicense: own\n---\n",
        "tags": "---\ntags: [1, 2]\n---\n",
        "results": card + "---\n",
        "list": "---\n- a\n---\n",
    }
    result = client(
        hub,
        f"""
        from huggingface_hub import ModelCard
        import warnings
        result = {{name: caught(lambda: push({repo!r}, "README.md", card.encode())) for name, card in {bad!r}.items()}}
        push({repo!r}, "README.md", {good!r}.encode())
        result["good"] = ModelCard.load({repo!r}).data.eval_results[0].metric_value
        with warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always")
            push({repo!r}, "README.md", b"# no header")
        result["warned"] = [str(w.message) for w in caught_warnings]
        """,
    )
    words = {
        "syntax": "YAML",
        "open": "no end",
        "license": '"license"',
        "tags": '"tags"',
        "results": "dataset.name",
        "list": "mapping",
    }
    for name, word in words.items():
        assert result[name][0] == "ValueError" and word in result[name][2], result[name]
    assert result["good"] == 0.5 and any("missing yaml metadata" in text for text in result["warned"])


FAULTS = """
    import threading, time
    repo = {repo!r}

    def timed(name, f):
        start = time.monotonic()
        found = caught(f)
        result[name] = [found[:2] if isinstance(found, list) else "done", time.monotonic() - start]

    def at_once(**calls):
        threads = [threading.Thread(target=timed, args=call) for call in calls.items()]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
    """


@pytest.mark.integration
def test_errors_once_and_for_ever(hub, repo):
    """A commit is never sent again; preuploads are, and so is the question that begins a download."""
    client(hub, f"push({repo!r}, 'w.bin', LARGE); push({repo!r})")
    hub.reset()
    for branch, fields in {
        "c500": {"status": 500},
        "c429": {"status": 429, "headers": {"Retry-After": "1"}},
        "c409": {"status": 409},
        "ccut": {"cut_sent": 0},
        "chalf": {"cut_received": 50},
    }.items():
        hub.fault(f"/commit/{branch}", **fields)
    hub.fault("/preupload/p503", status=503)
    hub.fault("/preupload/p429", status=429, headers={"Retry-After": "1"})
    hub.fault("/preupload/p502", status=502, body="<html>Bad Gateway</html>")
    if not OLD:
        hub.fault("/preupload/pcut", cut_received=10)
    hub.fault("resolve/c500", status=500)
    hub.fault("resolve/ccut", status=503, times=2)
    hub.fault("whoami", first=2, status=503, times=1)
    result = client(
        hub,
        FAULTS.format(repo=repo)
        + """
    commits, preuploads = ["c500", "c429", "c409", "ccut", "chalf"], ["p503", "p429", "p502", "pcut"]
    for branch in commits + preuploads:
        api.create_branch(repo, branch=branch)
    at_once(**{b: (lambda b=b: push(repo, b + ".txt", revision=b)) for b in commits + preuploads})
    at_once(d500=lambda: hf_hub_download(repo, "a.txt", revision="c500"), d503=lambda: hf_hub_download(repo, "a.txt", revision="ccut"))
    result["whoami"] = [outcome(lambda: api.whoami()["name"]) for _ in range(3)]
    """,
    )
    failed = {"c500": 500, "c429": 429, "c409": 409}
    for name, status in failed.items():
        assert result[name][0] == ["HfHubHTTPError", status], result[name]
    assert result["ccut"][0] == ["RemoteProtocolError", None]
    assert result["chalf"][0][0] in ("RemoteProtocolError", "WriteError", "ReadError"), result["chalf"]
    for branch in (*failed, "ccut", "chalf"):
        there = f"{branch}.txt" in hub.repo(f"model {repo}", branch).files
        assert there == (branch == "ccut"), "only the commit whose answer was lost has happened"
        assert len(hub.requests("POST", f"/commit/{branch}")) == 1
    for name, tries, wait in (
        ("p503", 2, 1),
        ("p429", 2, 1 if OLD else 2),
        ("p502", 2, 1),
        ("pcut", 1 if OLD else 2, 0 if OLD else 1),
    ):
        assert result[name][0] == "done" and wait <= result[name][1], (name, result[name])
        assert len(hub.requests("POST", f"/preupload/{name}")) == tries
    assert result["d500"][0] == result["d503"][0] == "done" and result["d503"][1] >= 1
    assert [len(hub.requests("HEAD", f"resolve/{branch}")) for branch in ("c500", "ccut")] == [2, 3]
    assert result["whoami"] == ["ann", ["HfHubHTTPError", 503], "ann"]


@pytest.mark.integration
def test_cut_throttled_and_full(hub, repo, tmp_path):
    client(hub, f"push({repo!r}, 'w.bin', LARGE); api.create_branch({repo!r}, branch='slow')")
    digest = hashlib.sha256(LARGE).hexdigest()
    hub.fault(f"{digest}", method="GET", cut_sent=10_000)
    hub.fault("/commit/slow", rate=1_000)
    hub.fault("lfs/objects/batch", first=2, status=401, body='{"error": "Invalid username or password."}')
    result = client(
        hub,
        FAULTS.format(repo=repo)
        + """
    other = LARGE[::-1]
    timed("resumed", lambda: hf_hub_download(repo, "w.bin"))
    result["same"] = open(hf_hub_download(repo, "w.bin"), "rb").read() == LARGE
    timed("slow", lambda: push(repo, "b.txt", b"x" * 900, revision="slow"))
    timed("cut", lambda: push(repo, "x.bin", other))
    timed("denied", lambda: push(repo, "y.bin", other + b"1"))
    """,
        HF_HOME=str(tmp_path),
    )
    first, second = hub.requests("GET", digest)
    assert result["same"] and (first["sent"], first["status"]) == (10_000, 0)
    assert (second["sent"], second["status"]) == (len(LARGE), 200), (
        "the client holds what it has only by 10 MiB"
    )
    assert result["slow"][0] == "done" and 1.2 < result["slow"][1], result["slow"]
    assert result["cut"][0] == "done" and result["denied"][0] == ["HfHubHTTPError", 401]
    hub.reset()
    hub.quota(len(LARGE))
    hub.fault("/models/", method="PUT", cut_received=5_000)
    result = client(
        hub,
        """
        api.create_repo("lab/full")
        result["cut"] = outcome(lambda: push("lab/full", "z.bin", LARGE[1:]))  # hub 2 goes on, hub 1 raises
        result["fits"] = outcome(lambda: push("lab/full", "z.bin", LARGE[1:]))
        result["full"] = caught(lambda: push("lab/full", "v.bin", LARGE[2:]))
        """,
    )
    assert [seen["status"] for seen in hub.requests("PUT")] == [0, 200] and isinstance(result["fits"], str)
    assert result["full"][:2] == ["HfHubHTTPError", 403] and "storage limit" in result["full"][2].lower()
    assert hub.repo("model lab/full").large == ["z.bin"]


def test_deleted_and_overtaken(hub, repo):
    hub.fault(
        "/commit/main", first=2, foreign_commit={"repo": f"model {repo}", "files": {"theirs.txt": "theirs"}}
    )
    hub.fault("/commit/main", first=4, delete_repo=f"model {repo}")
    result = client(
        hub,
        f"""
        first = push({repo!r})
        result["overtaken"] = outcome(lambda: push({repo!r}, "b.txt", parent_commit=first))
        result["beside"] = outcome(lambda: push({repo!r}, "b.txt"))
        result["head"] = api.repo_info({repo!r}).sha == result["beside"]
        result["log"] = [commit.title for commit in api.list_repo_commits({repo!r})]
        result["gone"] = [outcome(lambda: push({repo!r}, "c.txt")) for _ in range(2)]
        """,
    )
    assert result["overtaken"] == ["HfHubHTTPError", 412] and result["head"]
    assert [title.partition(" with")[0] for title in result["log"][:3]] == [
        "Upload b.txt",
        "From elsewhere",
        "Upload a.txt",
    ]
    assert result["gone"] == [["RepositoryNotFoundError", 404]] * 2 and hub.repo(f"model {repo}") is None


@pytest.mark.integration
def test_no_network(hub, repo, tmp_path):
    code = """
        import time
        start = time.monotonic()
        result = [outcome(lambda: api.create_repo("x")), outcome(lambda: api.repo_info("ann/x")),
            outcome(lambda: open(hf_hub_download("{repo}", "a.txt")).read()), time.monotonic() - start]
        """.replace("{repo}", repo)
    client(hub, f"push({repo!r}); hf_hub_download({repo!r}, 'a.txt')", HF_HOME=str(tmp_path))
    with nowhere() as endpoint:
        *found, seconds = client(hub, code, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    assert found == [["ConnectError", None], ["ConnectError", None], "text"] and seconds < 10


@pytest.mark.slow
def test_for_ever(hub, repo):
    """What is sent again is sent six times, after 1, 2, 4, 8 and 8 seconds."""
    hub.fault("/preupload/|/resolve/", status=503, times=None)
    code = """
    at_once(push=lambda: push(repo), pull=lambda: hf_hub_download(repo, "a.txt"))
    """
    result = client(hub, FAULTS.format(repo=repo) + code)
    assert result["push"][0] == ["HfHubHTTPError", 503] and result["pull"][0] == [
        "LocalEntryNotFoundError",
        None,
    ]
    assert all(23 <= seconds < 60 for _, seconds in result.values())
    assert [len(hub.requests("POST", "/preupload/")), len(hub.requests("HEAD"))] == [6, 7]
    with nowhere() as endpoint:
        result = client(hub, FAULTS.format(repo=repo) + code, HF_ENDPOINT=endpoint)
    unreachable = {"push": "RuntimeError" if OLD else "ConnectError", "pull": "LocalEntryNotFoundError"}
    unreachable |= {"pull": "RuntimeError"} if OLD else {}
    assert {name: found[0] for name, (found, _) in result.items()} == unreachable
    assert OLD or all(23 <= seconds < 60 for _, seconds in result.values())


@pytest.mark.integration
def test_killed_client_and_server_leave_whole_commits(hub, repo):
    head = hub.repo(f"model {repo}").branches["main"]
    hub.fault("/models/", method="PUT", rate=4_000_000)
    pushing = hub.launcher.start(code=CLIENT + f"push({repo!r}, 'big.bin', LARGE * 1000)")
    hub.wait_for(lambda: hub.requests("PUT") and hub.requests("PUT")[0]["received"] > 500_000)
    pushing.kill()
    hub.wait_for(
        lambda: hub.requests("PUT")[0]["status"] is not None
    )  # what the kernel had taken still arrives
    assert hub.requests("PUT")[0]["status"] == 0 and hub.requests("PUT")[0]["received"] < len(LARGE) * 1000
    state = hub.repo(f"model {repo}")
    assert state.branches["main"] == head and not list((state.folder / "lfs").iterdir())
    hub.stop()
    with pytest.raises(OSError):
        hub.admin("GET", "requests")
    endpoint = hub.endpoint
    hub.start()
    assert hub.endpoint == endpoint and hub.repo(f"model {repo}").branches["main"] == head
    client(hub, f"push({repo!r}, 'big.bin', LARGE * 1000)")
    assert hub.repo(f"model {repo}").files["big.bin"] == LARGE * 1000


def test_the_server_ends_with_its_test_run(programs, tmp_path):
    code = (
        "import os, pathlib, sys; from tests.hub.client import LoopbackHub as Hub; h = "
        "Hub(pathlib.Path(sys.argv[1]))"
    )
    code += "; print(h.endpoint, flush=True); os._exit(9)"
    endpoint = programs.start_python("-c", code, tmp_path, folder=ROOT).wait().out.strip()
    assert endpoint.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.URLError):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            urllib.request.urlopen(endpoint + "/_admin/requests").close()
            time.sleep(0.1)


def test_transformers_push_and_load(hub):
    result = client(
        hub,
        """
        import torch, warnings
        from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
        config = GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)
        one, two = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
        one.push_to_hub("tiny", commit_message="step 1", private=True)
        api.create_tag("ann/tiny", tag="step-1")
        two.push_to_hub("ann/tiny", commit_message="step 2")
        weights = lambda model: model.transformer.wte.weight.sum().item()
        result["weights"] = [[weights(m) for m in pair] for pair in (
            (one, AutoModelForCausalLM.from_pretrained("ann/tiny", revision="step-1")),
            (two, AutoModelForCausalLM.from_pretrained("ann/tiny")))]
        result["tensors"] = len(api.get_safetensors_metadata("ann/tiny").weight_map)
        """,
    )
    assert all(pushed == loaded for pushed, loaded in result["weights"]) and result["tensors"] > 5
    assert result["weights"][0] != result["weights"][1]
    state = hub.repo("model ann/tiny")
    assert state.messages[:2] == ["step 2", "step 1"] and state.large == ["model.safetensors"]


def test_datasets_push_load_and_stream(hub):
    result = client(
        hub,
        """
        from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset
        for config in ("zipf", "uniform"):
            splits = {name: Dataset.from_dict({"x": range(n), "name": [config] * n}) for name, n in (("train", 20), ("test", 5))}
            DatasetDict(splits).push_to_hub("ann/two-configs", config)
        result["configs"] = get_dataset_config_names("ann/two-configs")
        loaded = load_dataset("ann/two-configs", "zipf")
        result["rows"] = {name: split["x"][:] for name, split in loaded.items()}
        streamed = load_dataset("ann/two-configs", "uniform", split="test", streaming=True)
        result["streamed"] = [[row["x"], row["name"]] for row in streamed]
        """,
    )
    assert sorted(result["configs"]) == ["uniform", "zipf"]
    assert result["rows"] == {"train": list(range(20)), "test": list(range(5))}
    assert result["streamed"] == [[i, "uniform"] for i in range(5)]
    assert hub.repo("dataset ann/two-configs").large == sorted(
        f"{config}/{split}-00000-of-00001.parquet"
        for config in ("zipf", "uniform")
        for split in ("train", "test")
    )
