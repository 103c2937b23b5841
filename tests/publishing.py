"""What the tests of publishing share: small runs, and what a repository should hold afterwards."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

from tests.programs import TINY

SETTINGS = [
    *TINY, "task.n_eval_sequences=16", "training.steps=40", "training.checkpoint_every=8", "evaluate=8",
]  # fmt: skip
TAGS = [f"step-{step:08d}" for step in (8, 16, 24, 32, 40)]
MESSAGES = ["initial commit", *(f"Step {step}" for step in (8, 16, 24, 32, 40)), "Report of the finished run"]
TRAINED = ("history.jsonl", "model.safetensors", "config.json", "run.json", "README.md", "report/index.html")


def train(launcher, folder, *more, settings=SETTINGS, **options):
    """Train in `folder/run`, publishing all checkpoints unless told otherwise."""
    folder.mkdir(exist_ok=True)
    return launcher.hf_icl("run", "default", *settings, "--output", "run", *more, folder=folder, **options)


def published(hub, repo):
    """Return what a repository holds: its commits from the first,
    and all files of every tag and of its head."""
    state = hub.repo(f"model {repo}")
    files = {tag: hub.repo(f"model {repo}", tag).files for tag in sorted(state.tags)} | {"main": state.files}
    return SimpleNamespace(messages=state.messages[::-1], tags=sorted(state.tags), files=files)


def assert_same_publication(hub, repo, other):
    one, two = published(hub, repo), published(hub, other)
    assert one.messages == two.messages and one.tags == two.tags
    for revision, files in two.files.items():
        assert one.files[revision].keys() == files.keys(), revision
        for path, content in files.items():
            assert comparable(path, one.files[revision][path]) == comparable(path, content), (revision, path)


def comparable(path, content):
    """Return what of a file does not depend on where a run was resumed: transformers counts epochs, and draws
    the loader's seed from torch's generator, anew in each process."""
    if path.startswith("training_state/rng_state"):
        return None
    if path == "README.md":  # names the repository that it stands in
        return re.sub(rb"(ann|bob|this)/[\w-]+", b"ann/it", content)
    if path == "training_state/trainer_state.json":
        state = json.loads(content)
        return [{**entry, "epoch": None} for entry in (state, *state.pop("log_history"))]
    return content


def assert_trained_as(run: Path, other: Path, but=""):
    for name in TRAINED:
        mine, theirs = (comparable(name, (folder / name).read_bytes()) for folder in (run, other))
        assert name == but or mine == theirs, name
