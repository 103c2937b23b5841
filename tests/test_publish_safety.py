"""What comes from the Hub is data, and what goes there holds no secret."""

import hashlib
import json
import shutil

import pytest
import yaml

from hf_icl.errors import ConfigError, RunError
from hf_icl.hub.publisher import read_tag
from hf_icl.hub.pull import is_ours
from hf_icl.models.build import load_model
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from tests.publishing import TAGS, assert_trained_as

EVIL = "import pathlib; pathlib.Path('/tmp/hf_icl_evil').touch(); (pathlib.Path.home() / 'hacked').touch()\n"
PLANTED = {
    "pytorch_model.bin": "cos\nsystem\n(S'touch hacked'\ntR.",
    "optimizer.pt": "x",
    "adapter_model.bin": "x",
    "training_args.bin": "x",
    "tokenizer.pkl": "x",
    "training_state/optimizer.pt": "x",
    "evil.py": EVIL,
    "training_state/rng_state.pth": "x",
    "modeling_evil.py": EVIL,
    "sub/model.safetensors": "x",
    "setup.cfg": "x",
    "report/index.html": "<script>hacked</script>",
    "report/evil.js": "x",
    ".outbox/00000008/item.json": "{}",
}


def plant(hub, repo, **files):
    """Let somebody commit files to a published run."""
    state = hub.repo(f"model {repo}")
    config = json.loads(state.files["config.json"]) | {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    }
    hub.foreign_commit(f"model {repo}", **{**PLANTED, "config.json": json.dumps(config), **files})


@pytest.fixture
def planted(hub, launcher, publication, tmp_path, request):
    """Return the name of a published run into which somebody put what runs when it is loaded carelessly."""
    repo = f"ann/planted-{abs(hash(request.node.name)) % 10**8}"
    shutil.copytree(publication.twin, tmp_path / "mine/run")
    assert launcher.hf_icl("push", "mine/run", repo, folder=tmp_path).code == 0
    plant(hub, repo)
    hub.reset()
    return repo


@pytest.mark.integration
def test_what_could_run_is_not_even_fetched(hub, launcher, planted, publication, tmp_path):
    ended = launcher.hf_icl("pull", planted, "run", folder=tmp_path, HOME=str(tmp_path))
    assert ended.code == 0, ended
    asked = [
        seen["path"].partition("/resolve/")[2].partition("/")[2] for seen in hub.requests(part="/resolve/")
    ]
    assert "model.safetensors" in asked and not set(asked) & set(PLANTED)
    there = {
        path.relative_to(tmp_path / "run").as_posix()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    assert there & set(PLANTED) == {"report/index.html"}
    assert_trained_as(tmp_path / "run", publication.run, but="config.json")  # the page is written anew
    for words in (
        ["evaluate", "run", "--json"],
        ["evaluate", planted, "--json"],
        ["evaluate", planted, "--all-revisions"],
    ):
        ended = launcher.hf_icl(*words, folder=tmp_path, HOME=str(tmp_path))
        assert ended.code == 0 and not (tmp_path / "hacked").exists(), ended


def test_a_model_that_needs_code_of_its_own_is_refused(publication, tmp_path, monkeypatch):
    """transformers would ask whether to run it; the answer is no, whatever is typed."""
    folder = tmp_path / "model"
    folder.mkdir()
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'hacked')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    with pytest.raises(RunError, match="neither a run nor a saved model"):
        load_model(folder)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.integration
@pytest.mark.parametrize(
    "path",
    ["/tree/", pytest.param("/api/models/[^/]+/[^/]+(/revision/[^/]+)?([?]|$)", marks=pytest.mark.slow)],
)
def test_names_from_a_listing_stay_in_the_run_folder(hub, launcher, publication, tmp_path, path):
    """The server lists paths that lead elsewhere, and files under the names of folders."""
    names = [
        "../evil.json",
        "../../evil.json",
        "/etc/evil.json",
        "report/../../evil.html",
        "..\\evil.json",
        "C:\\evil.json",
        "training_state/../../evil.json",
        "model\0.safetensors",
        "training_state",
        "",
        ".",
        "..",
        "~/evil.json",
        "model.safetensors/../../evil",
        "checkpoint-8/optimizer.pt",
        ".hub.json",
        "complete.json",
        "*",
        "[a-z]*.json",
    ]
    repo = "ann/undisturbed"
    state = hub.repo(f"model {repo}")
    if path == "/tree/":
        listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
        for name, content in state.files.items():
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            listed.append({"type": "file", "path": name, "size": len(content), "oid": oid})
    else:
        listed = {
            "id": repo,
            "sha": state.branches["main"],
            "private": True,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name} for name in [*names, *state.files]],
        }
    hub.fault(path, method="GET", times=None, status=200, body=json.dumps(listed))
    (tmp_path / "here").mkdir()
    before = set(tmp_path.rglob("*"))
    home = {"HF_HOME": str(tmp_path / "here" / "home")}
    ended = launcher.hf_icl("pull", repo, "here/run", folder=tmp_path, **home)
    assert any(seen["fault"] for seen in hub.requests())
    written = {path for path in set(tmp_path.rglob("*")) - before}
    assert ended.code == 0, ended
    assert not [
        path for path in written if "evil" in path.name or tmp_path / "here" not in (path, *path.parents)
    ]
    assert (
        not (tmp_path / "here/run/.hub.json").exists() and not (tmp_path / "here/run/checkpoint-8").exists()
    )
    assert_trained_as(tmp_path / "here/run", publication.run)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"run.json": "[]"}, "cannot be read as a run folder"),
        ({"run.json": "bank"}, "run.json: is damaged in bank.name"),
        ({"config.yaml": "!!python/object/apply:os.system [touch hacked]"}, "cannot be read as a run folder"),
        (
            {"history.jsonl": '{"step": "<script>", "sequences": 0, "metrics": {}, "hits": {}}\n'},
            "history is damaged",
        ),
        (
            {
                "history.jsonl": '{"step": 1, "sequences": 0, "metrics": {"icl/accuracy": "<b>"}, '
                '"hits": {}}\n'
            },
            "damaged",
        ),
        (
            {"training_state/trainer_state.json": '{"global_step": "../../evil"}'},
            "trainer state cannot be read",
        ),
        (
            {
                "training_state/trainer_state.json": '{"global_step": 8}',
                "training_state/optimizer.pt.json": '{"call": 1}',
                "training_state/optimizer.pt.safetensors": "",
            },
            "not a trainer state",
        ),
    ],
)
def test_damaged_or_hostile_files_are_refused_and_leave_nothing(
    hub, launcher, planted, tmp_path, files, says
):
    if files == {"run.json": "bank"}:
        about = json.loads(hub.repo(f"model {planted}").files["run.json"])
        files = {"run.json": json.dumps(about | {"bank": {"n_classes": "<b>"}})}
    plant(hub, planted, **files)
    ended = launcher.hf_icl("pull", planted, "run", folder=tmp_path)
    assert ended.code == 2 and says in ended.err and "Traceback" not in ended.err, ended
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_hostile_names_are_not_ours():
    names = [
        "../run.json",
        "/run.json",
        "a/../run.json",
        "report/x.html",
        "training_state/../run.json",
        "run.json/",
        "//run.json",
        "training_state\\optimizer.pt.json",
        "run.json\n",
        "\u0440un.json",
        "model.safetensors\0",
        ".eval/x.json",
        "model*",
        "training_state/a/optimizer.pt.json",
        "training_state/optimizer.pt",
        "config.json.py",
        "adapter_x.pkl",
        "token.py",
    ]
    assert [name for name in names if is_ours(name)] == []


@pytest.mark.parametrize(
    "tag",
    ["step-1", "step-../x", "step-\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661", "step-" + "9" * 5000],
)
def test_hostile_tags_are_no_steps(tag):
    assert read_tag(tag) is None


# Secrets


def test_a_token_cannot_stand_in_a_config():
    with pytest.raises(ConfigError, match="keeps tokens out of configs") as caught:
        load_config("default", ["training.arguments={hub_token: hf_secret}"])
    assert "hf_secret" not in str(caught.value)


def test_a_traceback_holds_no_token(hub, launcher, tmp_path):
    """What the client raises, printed with every local name, as a program of the user's own may do."""
    code = """
from hf_icl.hub.remote import Remote
from hf_icl.hub.repos import prepare_repo
prepare_repo(Remote("bob/other"), public=False)
"""
    ended = launcher.start(code=code, folder=tmp_path).wait()
    assert ended.code == 1 and "Traceback" in ended.err and "403" in ended.err
    assert not any(token in ended.out + ended.err for token in hub.tokens.values())


def test_config_and_run_files_of_a_published_run_name_no_token(hub, publication):
    for tag in (*TAGS, "main"):
        files = hub.repo("model ann/undisturbed", tag).files
        assert not any(
            token.encode() in content for token in hub.tokens.values() for content in files.values()
        )
        assert "token" not in yaml.safe_load(files["config.yaml"])["training"]["arguments"]


@pytest.mark.slow
def test_a_pulled_run_that_tells_of_markup_makes_a_page_without_it(hub, launcher, planted, tmp_path):
    """Names and values that a run carries stand in its page as text;
    tests/test_report_page.py opens such a page."""
    state, hostile = hub.repo(f"model {planted}"), "</script><img src=x onerror=alert(1)>"
    about = json.loads(state.files["run.json"])
    about["provenance"] |= {hostile: hostile, "command": hostile}
    rows = [json.loads(line) for line in state.files["history.jsonl"].splitlines()]
    for row in rows:
        del row["crc"]  # as rows were written before they had one: somebody else's are read too
        row["metrics"][f"{hostile}/accuracy"] = 0.5
    plant(
        hub,
        planted,
        **{"run.json": json.dumps(about), "history.jsonl": "".join(json.dumps(r) + "\n" for r in rows)},
    )
    assert launcher.hf_icl("pull", planted, "run", folder=tmp_path).code == 0
    page = (tmp_path / "run/report/index.html").read_text()
    assert "onerror" in page and "<img src=x" not in page and "</script><img" not in page
    assert Run.open(tmp_path / "run").about["provenance"]["command"] == hostile
