"""`hf-icl data push` and the repositories that it makes, against the loopback Hub."""

import datasets
import pytest
import yaml

from hf_icl.data import export_parquet
from hf_icl.data.card import merge_cards, split_card
from hf_icl.errors import ConfigError
from hf_icl.runs.config import load_config
from hf_icl.runs.run import build_task
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task

SMALL = ["task.bank.n_classes=24", "task.bank.dim=8", "task.bank.n_labels=4", "task.n_eval_sequences=20"]


@pytest.fixture
def push(launcher):
    """Return a function that runs `hf-icl data push default …` of a small task."""
    return lambda *words, **options: launcher.hf_icl(
        "data", "push", "default", *words, *SMALL, "-n", 50, **options
    )


def make_card(tmp_path, name, n_sequences, **bank):
    bank = {"kind": "gaussian", "n_classes": 24, "n_holdout_classes": 4, "n_labels": 4} | bank
    task = Task(TaskConfig(bank=bank, n_eval_sequences=20, evaluators=["icl"]))
    folder = export_parquet(task, tmp_path / name, n_sequences=n_sequences, name=name)
    return (folder / "README.md").read_text()


@pytest.mark.integration
def test_a_pushed_task_loads_plainly_and_streamed_and_the_same_again_is_no_commit(hub, launcher, push):
    done = push("ann/sequences", "seed=3")
    assert done.code == 0, done.err
    first, last = done.out.splitlines()
    place = f"the dataset repository {hub.endpoint}/datasets/ann/sequences"
    assert first == f"Private: {place}, seen by its owners only."
    assert last == "Pushed. Read it with: load_dataset('ann/sequences', 'gaussian')"
    there = hub.repo("dataset ann/sequences")
    assert 'load_dataset("ann/sequences", "gaussian"' in there.files["README.md"].decode()

    read = """
        from datasets import load_dataset, load_dataset_builder
        rows = load_dataset("ann/sequences", "gaussian")
        stream = load_dataset("ann/sequences", "gaussian", split="flip", streaming=True)
        info = load_dataset_builder("ann/sequences", "gaussian").info
        counts = {name: len(split) for name, split in rows.items()}
        result = [counts, rows["flip"][:], list(stream), str(info.features)]
    """
    sizes, whole, streamed, features = launcher.run(read)
    assert sizes["train"] == 50 and set(sizes.values()) == {50, 20}
    task = build_task(load_config("default", [*SMALL, "seed=3"]))
    assert whole["labels"] == task.evaluators["flip"].batch.labels.tolist()
    assert streamed == [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]
    assert "labels" in features

    again = push("ann/sequences", "seed=3")
    assert again.code == 0 and again.out.splitlines()[-1].startswith("Nothing new."), again.err
    assert hub.repo("dataset ann/sequences").commits == there.commits


@pytest.mark.integration
def test_private_is_the_default_public_is_asked_for_and_neither_changes_silently(hub, launcher, push):
    assert push("ann/open", "--public").out.startswith("Public: the dataset repository ")
    count = """
        from datasets import load_dataset
        try:
            result = load_dataset("ann/{name}", "gaussian", split="icl").num_rows
        except Exception as error:
            result = type(error).__name__
    """
    push("ann/closed")
    seen = [launcher.run(count.format(name=name), user="bob/write") for name in ("open", "closed")]
    assert seen == [20, "DatasetNotFoundError"]
    before = hub.repo("dataset ann/open").commits
    no = push("ann/open", "seed=7")
    assert no.code == 2 and "it is there already and public, not private. Add --public" in no.err
    assert hub.repo("dataset ann/open").commits == before
    no = push("ann/closed", "--public")
    assert no.code == 2 and "it is there already and private, not public. Leave --public out" in no.err


@pytest.mark.integration
def test_another_configuration_adds_to_repository_and_card(hub, launcher, push):
    push("ann/two")
    done = push("ann/two", "--name", "wide", "task.bank.n_labels=6")
    assert "load_dataset('ann/two', 'wide')" in done.out, done.err
    push("ann/two", "--name", "wide", "seed=5")  # replaced, not added
    there = hub.repo("dataset ann/two")
    head, body = split_card(there.files["README.md"].decode())
    assert [entry["config_name"] for entry in head["configs"]] == ["gaussian", "wide"]
    assert body.count("\n## wide\n") == body.count("\n## gaussian\n") == 1
    assert len(there.messages) == 4 and there.messages[0] == "Configuration wide: 50 training sequences"
    read = """
        from datasets import get_dataset_config_names, load_dataset
        both = [load_dataset("ann/two", name, split="icl")["labels"][:] for name in ("gaussian", "wide")]
        labels = load_dataset("ann/two", split="icl")["labels"][:]
        result = [get_dataset_config_names("ann/two"), *both, labels]
    """
    names, gaussian, wide, default = launcher.run(read)
    assert names == ["gaussian", "wide"] and gaussian == default != wide


@pytest.mark.integration
def test_files_of_a_larger_version_go_and_what_others_changed_stops_the_push(hub, launcher, push):
    push("ann/shrinks")
    launcher.run("""
        from huggingface_hub import HfApi
        for name in ("gaussian/train-00000-of-00009.parquet", "mine.txt"):
            where = dict(repo_id="ann/shrinks", repo_type="dataset")
            HfApi().upload_file(path_or_fileobj=b"PAR1", path_in_repo=name, **where)
    """)
    assert push("ann/shrinks").code == 0
    files = hub.repo("dataset ann/shrinks").files
    assert "mine.txt" in files and "gaussian/train-00000-of-00009.parquet" not in files
    foreign = {"repo": "dataset ann/shrinks", "branch": "main", "files": {"README.md": "theirs"}}
    hub.fault("/commit/", method="POST", foreign_commit=foreign)
    no = push("ann/shrinks", "seed=9")
    assert no.code == 2 and "somebody else changed it meanwhile. Try again" in no.err, no.err
    assert hub.repo("dataset ann/shrinks").files["README.md"] == b"theirs"
    hub.reset()
    assert push("ann/shrinks", "seed=9").code == 0
    assert (
        hub.repo("dataset ann/shrinks").files["README.md"].decode().startswith("---\nlicense: apache-2.0\n")
    )


@pytest.mark.parametrize(
    ("user", "fault", "words"),
    [
        (None, {}, "the Hub does not know this token, or there is none. Log in with: hf auth login"),
        ("ann/read", {}, "the token may not write there. Make one with write access"),
        (
            "ann/write",
            {"path": "/commit/", "status": 503, "times": None},
            "the Hub answers 503. Try again later.",
        ),
        ("ann/write", {"path": "/lfs/objects/batch", "status": 402}, "the quota is used up."),
        (
            "ann/write",
            {"path": r"/[0-9a-f]{64}/\d+", "method": "PUT", "status": 400},
            "the Hub refuses what",
        ),
    ],
)
def test_failures_are_sentences(hub, launcher, push, user, fault, words):
    if fault:
        hub.fault(**fault)
    done = push("ann/failing", f"seed={fault.get('status', 0)}", user=user)  # files that are not there yet
    assert done.code == 2 and "Traceback" not in done.err
    assert words in done.err and done.err.startswith("Error ann/failing: ")
    assert not any(token in done.out + done.err for token in hub.tokens.values())


def test_no_network_is_a_sentence_and_a_wrong_name_too(hub, push):
    hub.stop()
    try:
        done = push("ann/failing")
    finally:
        hub.start()
    assert done.code == 2 and "the Hub cannot be reached (ConnectError: " in done.err
    assert push("failing").err.startswith("Error repository = 'failing': repositories are named user/name.")
    assert "Cannot have -- or .." in push("ann/fail--ing").err
    assert push("ann/failing", "--name", "../up").err.startswith(
        "Error name = '../up': a configuration is a folder."
    )
    assert hub.requests() == []


def test_cards_merge_by_configuration(tmp_path):
    one, two = make_card(tmp_path, "one", 900), make_card(tmp_path, "two", 500, kind="symbolic")
    assert merge_cards(one, one) == one
    both = merge_cards(one, two)
    assert merge_cards(both, two) == both == merge_cards(both, one)
    head, body = split_card(both)
    assert head["size_categories"] == ["1K<n<10K"] and head["license"] == "apache-2.0"
    assert [(entry["config_name"], entry.get("default")) for entry in head["configs"]] == [
        ("one", True),
        ("two", None),
    ]
    assert {info["config_name"]: info["splits"][0]["num_examples"] for info in head["dataset_info"]} == {
        "one": 900,
        "two": 500,
    }
    assert body.index("## one") < body.index("## two") and "kind: symbolic" in body
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("one", "two"):
        (tmp_path / name / name).rename(folder / name)
    (folder / "README.md").write_text(both)
    loaded = [datasets.load_dataset(str(folder), name, split="train").num_rows for name in ("one", "two")]
    assert loaded == [900, 500]


def test_a_card_that_somebody_wrote_is_kept(tmp_path):
    new = make_card(tmp_path, "new", 10)
    mine = (
        "---\npretty_name: Mine\nlicense: mit\ntags: [ours]\ndataset_info: {config_name: old}\n---\n\nRead "
        "*this*.\n"
    )
    head, body = split_card(merge_cards(mine, new))
    assert (
        head["pretty_name"] == "Mine"
        and head["license"] == ["mit", "apache-2.0"]
        and head["tags"][0] == "ours"
    )
    assert [info["config_name"] for info in head["dataset_info"]] == ["old", "new"]
    assert body.startswith("\nRead *this*.\n\n<!-- hf_icl new -->\n## new\n")
    assert split_card(merge_cards("No metadata.", new))[1].startswith("No metadata.\n\n<!-- hf_icl new")
    for broken in ("---\na: [1\n---\n", "---\n- 1\n---\n"):
        with pytest.raises(ConfigError, match="README.md = .*: the metadata at its top cannot be read"):
            merge_cards(broken, new)
    with pytest.raises(ConfigError, match="a configuration is a folder"):
        make_card(tmp_path, "../up", 10)
    assert yaml.safe_load(new.split("---")[1])["pretty_name"].startswith("Few-shot sequences")
