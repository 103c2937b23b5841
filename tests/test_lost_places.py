"""A folder that goes away under a run, limits on files, places that can only be read: one sentence each."""

import shutil

import pytest
from transformers import TrainerCallback

from hf_icl.errors import RunError
from hf_icl.runs.run import Run
from tests.programs import ROOT
from tests.test_runs import SETTINGS, assert_same_run, small_config, undisturbed  # noqa: F401
from tests.test_where import QUICK, disks, make_read_only, run_folder  # noqa: F401


class AtStep(TrainerCallback):
    """Does something before a step."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.what()


@pytest.mark.integration
@pytest.mark.parametrize("step", [0, 3, 5, 11, 17])  # measured are 4, 8, …, saved 6, 12, …
@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_run_whose_folder_goes_away_says_so(tmp_path, undisturbed, how, step):  # noqa: F811
    run = Run.create(small_config(), tmp_path / "run")

    def go_away():
        if how == "deleted":
            shutil.rmtree(run.folder)
        else:
            run.folder.rename(tmp_path / "moved")
        if how == "replaced":
            run.folder.mkdir()

    with pytest.raises(RunError, match="was moved or deleted while the run was at work") as caught:
        run.train(callbacks=[AtStep(step, go_away)])
    assert "\n" not in str(caught.value) and str(run.folder) in str(caught.value)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"moved": {"moved"}, "deleted": set(), "replaced": {"moved", "run"}}[how]
    assert how != "replaced" or not any(run.folder.iterdir())
    if how != "deleted":
        Run.open(tmp_path / "moved").train()
        assert_same_run(tmp_path / "moved", undisturbed)


LIMITED = """
import resource, sys
from hf_icl.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["hf-icl", "resume", sys.argv[2]]
main()
"""


@pytest.mark.integration
@pytest.mark.parametrize("limit", [600, 3_000, 9_000, 14_000, 20_000, 27_000])
def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(programs, tmp_path, undisturbed, limit):  # noqa: F811
    """It hits the history, the model, the optimizer or the report."""
    run = Run.create(small_config(), tmp_path / "run")
    ended = programs.start_python("-c", LIMITED, limit, run.folder, folder=ROOT).wait()
    assert ended.code == 2 and "Traceback" not in ended.err and ended.err.count("\n") == 1, ended
    assert "File too large" in ended.err and "Raise the limit on the size of files" in ended.err
    Run.open(run.folder).train()
    assert_same_run(run.folder, undisturbed)


COMMANDS = {
    "resume": ["resume", "RUN"],
    "report": ["report", "RUN"],
    "circuits": ["circuits", "RUN"],
    "push": ["push", "RUN", "ann/x"],
    "sweep": ["sweep", "mine.yaml", "--output", "NEW"],
    "export": ["data", "export", "default", *QUICK, "--output", "NEW"],
    "trace": ["trace", "RUN", "--output", "NEW"],
    "reproduce": ["reproduce", "transience", "--output", "NEW"],
    "pull": ["pull", "ann/x", "NEW"],
}


@pytest.mark.integration
@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_disk_that_can_only_be_read_each_command_says_so(programs, disks, tmp_path, run_folder, command):  # noqa: F811
    folder = disks[1] / "run"
    shutil.copytree(run_folder, folder)
    (folder / "complete.json").unlink()  # so that there is something to do
    make_read_only(disks[1])
    settings = ", ".join(f"{key}: {value}" for key, value in (word.split("=") for word in QUICK))
    (tmp_path / "mine.yaml").write_text(f"grid: {{seed: [0, 1]}}\nset: {{{settings}}}\n")
    words = [{"RUN": folder, "NEW": disks[0] / "new"}.get(word, word) for word in COMMANDS[command]]
    ended = programs.hf_icl(*words, folder=tmp_path)
    assert ended.code == 2 and "Traceback" not in ended.err, ended
    said = ended.err.strip().splitlines()
    assert len(said) == 1 and ("Read-only file system" in said[0] or "HF_HUB_OFFLINE" in said[0]), ended
