"""What killed writers leave goes, what living ones are at stays; files are for whom the umask says."""

import os
import random
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from hf_icl import files
from tests.test_runs import in_a_process


def fill(folder: Path, die: bool) -> None:
    with files.fill_whole(folder, last="z", way_out="") as draft:
        (draft / "a").write_text("1")
        (draft / "sub").mkdir()
        if die:
            os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path, die: bool) -> None:
    with files.open_whole(path) as file:
        file.write(b"1")
        if die:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("work", [fill, write])
def test_drafts_of_killed_writers_go_with_the_next_one(tmp_path, work, seed):
    """Of any name, in a folder that is there or not; a living one stays, and so does what looks alike."""
    name = random.Random(seed).choice(["run", "a.b", ".hidden", "with space", "[x]*", "run.tmp"])
    if work is fill and seed % 2:
        (tmp_path / name).mkdir()
    inside = tmp_path / name if (tmp_path / name).is_dir() else tmp_path
    alike = [inside / ".mine.tmp", inside / f".{name}.{'g' * 32}.tmp", inside / f"{name}.{'a' * 32}.tmp"]
    for path in alike:
        path.touch()
    for _ in range(2):
        assert in_a_process(lambda: work(tmp_path / name, True)) == -signal.SIGKILL
    assert len(find_drafts(tmp_path)) == 1, "the second has removed what the first left"
    with files.open_whole(tmp_path / "other" / "living") as _:
        work(tmp_path / name, False)
        assert [path.parent.name for path in find_drafts(tmp_path)] == ["other"]
    assert not find_drafts(tmp_path) and all(path.exists() for path in alike)


def find_drafts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if files.DRAFTS.fullmatch(path.name)]


def test_a_living_writer_of_the_same_name_is_left_alone(tmp_path):
    with files.open_whole(tmp_path / "a") as file, files.fill_whole(tmp_path / "b", last="z", way_out=""):
        file.write(b"1")
        files.write_whole(tmp_path / "a", b"2")
        files.remove_drafts(tmp_path)
        with files.fill_whole(tmp_path / "b" / "c", last="z", way_out=""):
            pass
        (tmp_path / "b" / "c").rmdir()
        (tmp_path / "b").rmdir()
    assert (tmp_path / "a").read_bytes() == b"1" and (tmp_path / "b").is_dir()


def test_names_of_drafts_cannot_be_guessed_and_links_are_not_followed(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "kept").touch()
    link = files.name_draft(tmp_path / "a")
    link.symlink_to(tmp_path / "secret")
    names = {files.name_draft(tmp_path / "a").name for _ in range(100)}
    assert len(names) == 100 and all(files.DRAFTS.fullmatch(name) for name in names)
    files.write_whole(tmp_path / "a", b"1")
    files.remove_drafts(tmp_path)
    assert (tmp_path / "secret" / "kept").exists()


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.fill_whole(tmp_path / "run", last="z", way_out="") as draft:
            safetensors.numpy.save_file({"a": np.zeros(2)}, draft / "model.safetensors")
            (draft / "sub").mkdir()
            safetensors.numpy.save_file({"a": np.zeros(2)}, draft / "sub" / "model.safetensors")
        files.write_whole(tmp_path / "run" / "b", b"1")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}
