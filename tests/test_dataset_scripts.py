"""The ways to the rows that need no code of ours, or an old `datasets`: Parquet with a card,
and the loading script."""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

import hf_icl.data as data
from hf_icl.data import export, parse_arguments
from hf_icl.errors import ConfigError, FileError
from hf_icl.task.task import Task
from tests.test_data import SMALL

SCRIPTS = Path(__file__).resolve().parents[1] / "dataset_scripts" / "hf_icl_sequences"
SPLITS = ["train", "train_eval", "icl", "icl_holdout", "iwl", "ciwl", "flip"]
# What a user runs who has `datasets` only; the package is made impossible to import.
STRANGER = """
import json, sys
sys.modules["hf_icl"] = None
import datasets
folder, streaming = sys.argv[1], sys.argv[2] == "streaming"
loaded = datasets.load_dataset(folder, streaming=streaming, cache_dir=sys.argv[3])
print(json.dumps({split: list(rows) for split, rows in loaded.items()}))
"""
OLD_DATASETS = ("datasets==3.6.0", "dill==0.3.8", "multiprocess==0.70.16", "fsspec==2025.3.0")
OLD_USER = """
import json, sys
import datasets
assert datasets.__version__ == "3.6.0"
script, cache, how, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
arguments |= dict(trust_remote_code=True, cache_dir=cache)
loaded = datasets.load_dataset(script, "gaussian", **how, **arguments)
print(json.dumps({split: list(rows) for split, rows in loaded.items()}))
"""


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def make_task(kind="gaussian", **arguments):
    config = parse_arguments(kind, arguments)
    return Task(config.task, seed=config.seed)


def list_rows(loaded):
    return {split: list(rows) for split, rows in loaded.items()}


def run_python(program, *words, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Parquet


@pytest.mark.integration
def test_parquet_holds_the_same_rows_for_someone_without_our_code(programs, tmp_path):
    arguments = SMALL | {"seed": 4, "noise": 0.5, "with_exemplars": True}
    expected = list_rows(data.load_dataset("gaussian", streaming=True, n_sequences=50, **arguments))
    folder = data.export_parquet(
        make_task(**arguments), tmp_path / "out", n_sequences=50, with_exemplars=True
    )
    for how in ("prepared", "streaming"):
        command = programs.start_python(
            "-c", STRANGER, folder, how, tmp_path / "cache", HF_HOME=str(tmp_path / "home")
        )
        ended = command.wait()
        assert ended.code == 0, ended.err
        assert json.loads(ended.out.splitlines()[-1]) == expected


def test_pictures_come_back_as_pictures(tmp_path):
    import numpy as np

    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8))
    arguments = {"source": str(tmp_path / "pixels.npy"), "n_classes": 6, "n_eval_sequences": 3}
    folder = data.export_parquet(
        make_task("features", **arguments), tmp_path / "out", n_sequences=3, with_exemplars=True
    )
    expected = data.load_dataset("features", streaming=True, n_sequences=3, with_exemplars=True, **arguments)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    files = {"train": str(folder / "features" / "train-*.parquet")}
    bare = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    for rows in (loaded["train"], bare):
        assert list(rows) == list(expected["train"])
        assert rows[0]["exemplars"][0].size == (8, 8)
    text = (folder / "README.md").read_text()
    assert "license" not in yaml.safe_load(text.split("---")[1])  # whose pictures they are is not ours to say
    assert str(tmp_path) not in text and "source: pixels.npy" in text


def test_the_card_lists_configs_features_and_sizes(tmp_path):
    folder = data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=50)
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    (config,) = head["configs"]
    assert (
        config["config_name"] == "gaussian" and [files["split"] for files in config["data_files"]] == SPLITS
    )
    (info,) = head["dataset_info"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
        "train": 50
    } | dict.fromkeys(SPLITS[1:], 20)
    row_bytes = 8 + 5 * (4 + 4 + 4 + 1)
    assert info["dataset_size"] == (50 + 6 * 20) * row_bytes
    assert info["download_size"] == sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    assert info["features"][3] == {"name": "labels", "sequence": "int32", "length": 5}
    loader = datasets.load_dataset_builder(str(folder))
    assert loader.info.features == datasets.Features(
        data.HfIclSequences(config_name="gaussian", **SMALL).info.features
    )


def test_large_splits_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FILE_BYTES", 73 * 400)
    folder = data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=1000)
    files = sorted((folder / "gaussian").glob("train-*"))
    assert [path.name for path in files] == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(path).num_rows for path in files] == [333, 333, 334]
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["index"][:] == list(range(1000))


def test_a_filled_folder_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_write_split", None)  # told before the work, not after it
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty, and nothing is overwritten. Choose a new folder"):
        data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=5)
    with pytest.raises(ConfigError, match="this is a file"):
        data.export_parquet(make_task(**SMALL), tmp_path / "out" / "mine.txt", n_sequences=5)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_broken_export_leaves_nothing_behind(tmp_path, monkeypatch, stop):
    def fail(*_):
        raise stop

    monkeypatch.setattr(export, "write_card", fail)
    with pytest.raises((FileError, KeyboardInterrupt)) as error:
        data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=5)
    assert list(tmp_path.iterdir()) == []
    if isinstance(stop, OSError):
        assert "cannot be written (No space left on device). Make room" in str(error.value)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=5)
    assert (tmp_path / "out" / "README.md").exists()
    assert not list(tmp_path.glob(".*"))


# dataset_scripts/


def load_program():
    spec = importlib.util.spec_from_file_location("hf_icl_export_program", SCRIPTS / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_card_of_the_folder_serves_exports_laid_beside_it(tmp_path, monkeypatch, capsys):
    """Two exports by the folder's own program, put together under the folder's card."""
    program = load_program()
    shutil.copy(SCRIPTS / "README.md", tmp_path)
    words = [f"{name}={value}" for name, value in SMALL.items() if name != "dim"]
    for kind in ("gaussian", "symbolic"):
        monkeypatch.setattr(
            sys, "argv", ["export.py", kind, str(tmp_path / "made"), "n_sequences=30", *words]
        )
        assert program.main() == 0
        shutil.move(tmp_path / "made" / kind, tmp_path / kind)
        shutil.rmtree(tmp_path / "made")
    assert set(datasets.get_dataset_config_names(str(tmp_path))) == {
        "gaussian",
        "symbolic",
        "omniglot",
        "features",
    }
    arguments = {name: value for name, value in SMALL.items() if name != "dim"}
    for kind, name in ((None, "gaussian"), ("symbolic", "symbolic")):
        loaded = datasets.load_dataset(str(tmp_path), kind, cache_dir=str(tmp_path / "cache"))
        assert list_rows(loaded) == list_rows(
            data.load_dataset(name, streaming=True, n_sequences=30, **arguments)
        )


def test_the_program_tells_what_is_wrong(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["export.py", "gaussian", str(tmp_path / "out"), "n_clases=3"])
    assert load_program().main() == 2
    assert capsys.readouterr().err == "Error: n_clases = 3: unknown key. Did you mean n_classes?\n"
    assert not list(tmp_path.iterdir())


def test_the_script_holds_the_builder():
    spec = importlib.util.spec_from_file_location("hf_icl_sequences", SCRIPTS / "hf_icl_sequences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = [
        value for value in vars(module).values() if getattr(value, "__module__", None) == "hf_icl_sequences"
    ]
    assert len(own) == 1 and issubclass(own[0], data.HfIclSequences)


@pytest.fixture(scope="module")
def old_datasets(tmp_path_factory):
    """Install datasets 3.6 into a folder that a subprocess puts before everything else."""
    folder = tmp_path_factory.mktemp("datasets-3.6")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        *OLD_DATASETS,
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"datasets 3.6 cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"num_proc": 2}, {"streaming": True}])
@pytest.mark.parametrize("path", [SCRIPTS, SCRIPTS / "hf_icl_sequences.py"])
def test_the_script_gives_the_same_rows_with_datasets_3(old_datasets, tmp_path, how, path):
    arguments = SMALL | {"n_sequences": 100, "with_exemplars": True, "n_labels": None}
    old = {"PYTHONPATH": str(old_datasets), "HF_HOME": str(tmp_path / "home")}
    rows = run_python(OLD_USER, path, tmp_path / "cache", json.dumps(how), json.dumps(arguments), **old)
    assert rows == list_rows(data.load_dataset("gaussian", streaming=True, **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["prepared", "streaming"])
def test_parquet_and_the_name_work_with_datasets_3(old_datasets, tmp_path, how):
    old = {"PYTHONPATH": str(old_datasets), "HF_HOME": str(tmp_path / "home")}
    folder = data.export_parquet(make_task(**SMALL), tmp_path / "out", n_sequences=50)
    expected = list_rows(data.load_dataset("gaussian", streaming=True, n_sequences=50, **SMALL))
    assert run_python(STRANGER, folder, how, tmp_path / "cache", **old) == expected
    by_name = "import hf_icl.data; hf_icl.data.register()\n" + OLD_USER
    how = json.dumps({"streaming": how == "streaming"})
    arguments = json.dumps(SMALL | {"n_sequences": 50})
    program = by_name.replace("trust_remote_code=True, ", "")
    assert run_python(program, "hf_icl", tmp_path / "cache", how, arguments, **old) == expected
