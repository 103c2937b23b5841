"""Whatever the Hub answers: a sentence, or the right thing; nothing elsewhere, nothing half-written."""

import hashlib
import shutil

import pytest

from tests.publishing import TAGS


def fuzz(hub, launcher, publication, folder, first: int, count: int) -> dict:
    run = folder / "waiting"
    if not run.exists():
        shutil.copytree(publication.twin, run)
        code = f"""
from hf_icl.hub.contents import list_checkpoints, put_closing, put_step
from hf_icl.hub.outbox import Outbox
from hf_icl.runs.run import Run
run = Run.open({str(run)!r})
for checkpoint in list_checkpoints(run.folder).values():
    put_step(Outbox(run.folder), run.folder, checkpoint)
put_closing(Outbox(run.folder), run, repo_id="ann/fuzzed")
result = Outbox(run.folder).names()
"""
        assert len(launcher.run(code)) == 3
    (folder / "cases").mkdir(exist_ok=True)
    published = [hub.repo("model ann/undisturbed", tag).files["model.safetensors"] for tag in [*TAGS, "main"]]
    models = [hashlib.sha256(model).hexdigest() for model in published]
    code = f"""
from tests.hub.fuzzing import fuzz
result = fuzz({first}, {count}, {str(folder / "cases")!r}, "ann/undisturbed", {str(run)!r}, {models})
"""
    found = launcher.run(code)
    print(found)
    return found


def assert_held(found: dict, most_seconds: float) -> None:
    assert found["wrong"] == [] and found["outside"] == []
    assert found["changed"] > found["tried"] and found["refused"] > 0.2 * found["tried"]
    assert found["longest"] < most_seconds and found["peak_bytes"] < 2 << 30


@pytest.mark.integration
def test_some_answers_of_a_hub_that_lies(hub, launcher, publication, tmp_path):
    assert_held(fuzz(hub, launcher, publication, tmp_path, 0, 40), 30)


@pytest.mark.slow
def test_many_answers_of_a_hub_that_lies(hub, launcher, publication, tmp_path):
    parts = [fuzz(hub, launcher, publication, tmp_path, first, 50) for first in range(1_000, 1_600, 50)]
    for found in parts:
        assert_held(found, 60)
    print({name: sum(found[name] for found in parts) for name in ("tried", "refused", "accepted", "changed")})
