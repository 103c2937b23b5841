"""The datasets builder: rows, splits, arguments, caches, and the name that datasets is taught."""

import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from rich.console import Console

import hf_icl.data as data
from hf_icl.banks.kinds import KINDS
from hf_icl.data import builder, packaged, parse_arguments
from hf_icl.data.config import SPEC_FIELDS, TASK_FIELDS, fingerprint_files, name_fields
from hf_icl.data.packaged import BUILDER_MODULE, PACKAGE, fingerprint_sources
from hf_icl.data.tables import SequenceTables, make_ranges
from hf_icl.errors import ConfigError
from hf_icl.philox import stream_of
from hf_icl.sequences.batch import batch_from_rows
from hf_icl.task.config import TaskConfig
from hf_icl.task.show import draw_exemplar, render_sequences
from hf_icl.task.task import Task
from tests.rooms import list_needed

SMALL = {
    "n_classes": 24,
    "n_holdout_classes": 6,
    "n_exemplars": 3,
    "dim": 4,
    "n_labels": 8,
    "n_eval_sequences": 20,
}
COLUMNS = ["class_ids", "exemplar_ids", "index", "labels", "roles"]


@pytest.fixture(autouse=True)
def _quiet():
    data.register()
    datasets.disable_progress_bars()


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def small_task(**changes):
    config = parse_arguments("gaussian", SMALL | changes)
    return Task(config.task, seed=config.seed)


def assert_rows_equal(rows, batch):
    """Compare rows of a data set, in any form, with the sequences that they should be."""
    rows = list(rows)
    assert [row["index"] for row in rows] == batch.index.tolist()
    for name in ("class_ids", "exemplar_ids", "labels", "roles"):
        assert [list(row[name]) for row in rows] == getattr(batch, name).tolist(), name


# Rows


@pytest.mark.parametrize(
    "load", [lambda *a, **k: datasets.load_dataset("hf_icl", *a, **k), data.load_dataset]
)
@pytest.mark.parametrize("how", [{}, {"streaming": True}, {"num_proc": 2}])
def test_row_i_is_sequence_i_however_it_is_loaded(load, how, cache):
    loaded = load("gaussian", cache_dir=cache, n_sequences=101, seed=5, **SMALL, **how)
    task = small_task(seed=5)
    assert_rows_equal(loaded["train"], task.sampler().draw(0, 101))
    names = ["train_eval", "icl", "icl_holdout", "iwl", "ciwl", "flip"]
    assert list(loaded) == ["train", *names]
    for split, name in zip(names, task.evaluators, strict=True):
        assert_rows_equal(loaded[split], task.evaluators[name].batch)


def test_streamed_shards_hold_the_rows_once_each():
    rows = data.load_dataset("gaussian", split="train", streaming=True, n_sequences=1000, **SMALL)
    parts = [rows.shard(num_shards=4, index=rank) for rank in range(4)]
    assert rows.n_shards % 4 == 0 and [part.n_shards for part in parts] == [rows.n_shards // 4] * 4
    assert sorted(row["index"] for part in parts for row in part) == list(range(1000))


def test_a_stream_resumes_where_it_was_left():
    rows = data.load_dataset("gaussian", split="train", streaming=True, n_sequences=100, **SMALL)
    seen = iter(rows)
    first = [next(seen)["index"] for _ in range(30)]
    state = json.loads(json.dumps(rows.state_dict()))
    again = data.load_dataset("gaussian", split="train", streaming=True, n_sequences=100, **SMALL)
    again.load_state_dict(state)
    assert first + [row["index"] for row in again] == list(range(100))


def test_more_rows_leave_the_earlier_ones_as_they_are(cache):
    few, many = (
        data.load_dataset(split="train", cache_dir=cache, n_sequences=n, **SMALL) for n in (30, 3000)
    )
    assert few[:] == many[:30]


def test_a_row_takes_tens_of_bytes(cache):
    rows = data.load_dataset(split="train", cache_dir=cache, n_sequences=2000, **SMALL)
    assert rows.data.nbytes / len(rows) == 8 + 5 * (4 + 4 + 4 + 1)


def test_an_odd_context_has_lists_of_two_lengths():
    loaded = data.load_dataset(streaming=True, n_context=3, n_sequences=2, **SMALL)
    assert loaded["train"].features["labels"].length == -1
    lengths = {split: {len(row["labels"]) for row in loaded[split].take(2)} for split in loaded}
    assert lengths == {
        "train": {4},
        "train_eval": {4},
        "icl": {3},
        "icl_holdout": {3},
        "iwl": {4},
        "ciwl": {4},
        "flip": {3},
    }


@pytest.mark.parametrize("n_rows", [1, 15, 16, 33, 100, 1000, 12_345, 10**9])
def test_shards_cover_all_rows_in_order(n_rows):
    ranges = make_ranges(n_rows)
    assert ranges[0][0] == 0 and ranges[-1][1] == n_rows
    assert all(before[1] == after[0] for before, after in zip(ranges, ranges[1:], strict=False))
    assert all(start < stop for start, stop in ranges)
    assert len(ranges) in (1, 2, 4, 8, 16, 32, 64)


def test_splits_follow_the_evaluators_that_the_task_has():
    def names(**changes):
        return datasets.get_dataset_split_names("hf_icl", "gaussian", **SMALL | changes)

    assert "icl_holdout" not in names(n_holdout_classes=0)
    assert names(evaluators=["flip"]) == ["train", "flip"]
    own = {"shuffled": {"n_context": 4, "burst": 2, "labels": "remapped"}}
    assert names(evaluators=["iwl"], extra_evaluators=own) == ["train", "iwl", "shuffled"]


# Exemplars


def load_with_exemplars(kind, cache, **arguments):
    arguments = {"with_exemplars": True, "n_sequences": 20, "n_eval_sequences": 4} | arguments
    config = parse_arguments(kind, arguments)
    task = Task(config.task, seed=config.seed)
    loaded = [
        data.load_dataset(kind, split="train", cache_dir=cache, streaming=s, **arguments)
        for s in (False, True)
    ]
    return task.features(task.sampler().draw(0, 20)), *(list(rows) for rows in loaded)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_vectors_are_what_the_model_sees(cache, noise):
    seen, stored, streamed = load_with_exemplars("gaussian", cache, noise=noise, **SMALL)
    for rows in (stored, streamed):
        assert torch.equal(torch.tensor([row["exemplars"] for row in rows]), seen)


def test_ids_are_the_tokens_of_a_vocabulary(cache):
    seen, stored, streamed = load_with_exemplars("symbolic", cache, n_classes=9, n_holdout_classes=2)
    assert [row["exemplars"] for row in stored] == [row["exemplars"] for row in streamed] == seen.tolist()


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_stored_bytes_become_pictures(cache, tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, *channels, 6, 5), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    seen, stored, streamed = load_with_exemplars(
        "features", cache, source=str(tmp_path / "pixels.npy"), n_classes=10
    )
    for rows in (stored, streamed):
        pictures = [row["exemplars"] for row in rows]
        assert isinstance(pictures[0][0], PIL.Image.Image) and pictures[0][0].size == (5, 6)
        back = torch.from_numpy(np.stack([[np.asarray(picture) for picture in row] for row in pictures]))
        back = {(): back, (1,): back[:, :, None], (3,): back.movedim(-1, 2) if channels == (3,) else back}[
            channels
        ]
        assert torch.equal(back.float() / 255, seen)


def test_images_of_floats_or_with_noise_become_nested_lists(cache, tmp_path):
    pixels = np.random.default_rng(0).normal(size=(10, 3, 6, 5)).astype(np.float32)
    np.save(tmp_path / "floats.npy", pixels)
    np.save(tmp_path / "bytes.npy", (pixels * 9 + 99).astype(np.uint8))
    for name, noise in (("floats", 0.0), ("bytes", 0.3)):
        source = str(tmp_path / f"{name}.npy")
        seen, stored, _ = load_with_exemplars("features", cache, source=source, n_classes=10, noise=noise)
        assert torch.equal(torch.tensor([row["exemplars"] for row in stored]), seen)


@pytest.mark.slow  # decodes the archives
def test_omniglot_drawings_can_be_looked_at(cache, omniglot_folder):
    rows = data.load_dataset(
        "omniglot", split="icl", streaming=True, source=str(omniglot_folder), size=28, with_exemplars=True,
        n_eval_sequences=8,
    )  # fmt: skip
    picture = next(iter(rows))["exemplars"][0]
    assert picture.size == (28, 28) and picture.mode == "L" and np.asarray(picture).max() > 128


# Back to batches


def test_rows_go_back_to_the_batch_that_they_came_from(cache):
    spec = {"n_context": 4, "burst": 1}
    mixture = {"train": [spec, spec | {"noise": 0.7}]}
    for arguments in (SMALL, SMALL | mixture):
        rows = data.load_dataset(split="train", cache_dir=cache, n_sequences=40, **arguments)
        task = small_task(**{name: value for name, value in arguments.items() if name not in SMALL})
        drawn = task.sampler().draw(0, 40)
        for form in (rows, rows.with_format("numpy"), rows.with_format("torch")):
            batch = batch_from_rows(list(form), seed=0, stream=stream_of("training"))
            assert torch.equal(task.features(batch), task.features(drawn))
            assert torch.equal(batch.labels, drawn.labels) and batch.labels.dtype == torch.int64


def test_noise_is_a_column_of_all_splits_where_any_has_it():
    loaded = data.load_dataset(streaming=True, noise=0.5, n_sequences=3, **SMALL)
    assert next(iter(loaded["train"]))["noise"] == 0.5
    row = next(iter(loaded["icl"]))
    assert row["noise"] == 0.0
    assert batch_from_rows([row], seed=0, stream=0).noise is None


# Arguments


def test_no_bank_field_means_two_things():
    for kind, bank in KINDS.items():
        names = name_fields(kind)
        assert not set(names) & {
            *SPEC_FIELDS,
            *TASK_FIELDS,
            "seed",
            "n_sequences",
            "with_exemplars",
            "split",
            "features",
        }
        assert set(names.values()) == set(bank.model_fields) - {"kind"}
    assert "bank_seed" in name_fields("gaussian")


def test_flat_arguments_reach_bank_spec_and_task():
    config = parse_arguments(
        "gaussian", {"eps": 0.5, "bank_seed": 7, "zipf": 1.0, "labels": "fixed", "seed": 3}
    )
    assert (config.task.bank.eps, config.task.bank.seed, config.task.train.zipf, config.seed) == (
        0.5,
        7,
        1.0,
        3,
    )
    assert parse_arguments("gaussian", {}).task == TaskConfig()
    nested = parse_arguments("gaussian", {"train": {"n_context": 6}, "burst": 2}).task.train
    assert (nested.n_context, nested.burst) == (6, 2)


def test_an_argument_of_none_is_not_skipped():
    """`datasets` leaves out None when it overrides a configuration's fields."""
    loader = datasets.load_dataset_builder("hf_icl", "gaussian", n_labels=None)
    assert loader.config.resolved.task.bank.n_labels is None


@pytest.mark.parametrize(
    "load", [lambda *a, **k: datasets.load_dataset("hf_icl", *a, **k), data.load_dataset]
)
@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("gaussian", {"n_clases": 3}, "n_clases = 3: unknown key. Did you mean n_classes?"),
        ("gaussian", {"burst": 9}, "burst = 9: burst and distractor places"),
        ("gaussian", {"eps": -1}, "eps = -1: should be greater than or equal to 0"),
        ("gaussian", {"n_sequences": 0}, "n_sequences = 0: should be greater"),
        ("gaussian", {"evaluators": ["icll"]}, "Did you mean icl"),
        ("gaussian", {"train": [{}, {}], "burst": 1}, "Set burst in each of them"),
        ("gaussian", {"train": {"bust": 1}}, "train.bust = 1: unknown key. Did you mean burst"),
        ("gaussian", {"train": {"n_context": 3}, "burst": 2}, "burst = 2: burst and distractor places"),
        ("gaussian", {"bank_seed": -1}, "bank_seed = -1: should be greater"),
        ("gaussian", {"train": 3}, "train = 3"),
        (
            "gaussian",
            {"extra_evaluators": {"my icl": {"n_context": 4, "burst": 1}}},
            "Use letters, digits and _",
        ),
        (
            "gaussian",
            {"extra_evaluators": {"train_eval": {"n_context": 4, "burst": 1}}},
            "no split can be called so",
        ),
        ("features", {"n_classes": 3}, "source = None: this setting is required"),
        ("gaussian", {"n_classes": 1, "n_context": 2}, "class"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_written(load, kind, arguments, message, cache, tmp_path):
    with pytest.raises(ConfigError) as error:
        load(kind, cache_dir=cache, **arguments)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.arrow"))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="gaussian"):
        datasets.load_dataset("hf_icl", "gausian")
    with pytest.raises(ConfigError, match="there are gaussian, symbolic, omniglot, features"):
        data.load_dataset("hf_icl", "gausian")
    with pytest.raises(ConfigError, match='path must be "hf_icl"'):
        data.load_dataset("hf_ic", "gaussian")


def test_a_builder_config_says_all_that_decides_the_rows():
    loader = builder.HfIclSequences(config_name="gaussian", zipf=1.5)
    assert loader.config.resolved == parse_arguments("gaussian", {"zipf": 1.5})


# The name "hf_icl"


def test_names_of_configurations_and_the_default():
    kinds = ["gaussian", "symbolic", "omniglot", "features", "vocabulary", "texts"]
    assert datasets.get_dataset_config_names("hf_icl") == kinds
    assert datasets.load_dataset_builder("hf_icl").config.name == "gaussian"
    assert sorted(datasets.load_dataset_builder("hf_icl").info.features) == COLUMNS


def test_nothing_comes_from_the_current_folder(tmp_path, monkeypatch, cache):
    where = []
    for name in ("empty", "full"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        if name == "full":
            (folder / "train.csv").write_text("a,b\n1,2\n")
            (folder / "hf_icl").mkdir()
            (folder / "hf_icl" / "hf_icl.py").write_text(
                "raise RuntimeError('run from the current folder')\n"
            )
        loader = datasets.load_dataset_builder("hf_icl", "gaussian", cache_dir=cache, **SMALL)
        where.append(loader.cache_dir)
    assert where[0] == where[1]
    more = {"data_dir": str(tmp_path), "data_files": {"train": "full/train.csv"}}
    assert (
        datasets.load_dataset_builder("hf_icl", "gaussian", cache_dir=cache, **SMALL, **more).cache_dir
        == where[0]
    )


def test_other_builders_are_left_alone(tmp_path, cache):
    data.register()
    (tmp_path / "train.jsonl").write_text('{"a": 1, "b": 2}\n')
    files = str(tmp_path / "train.jsonl")
    assert datasets.load_dataset("json", data_files=files, cache_dir=cache)["train"][0] == {"a": 1, "b": 2}


def test_both_ways_share_one_cache(cache, monkeypatch):
    first = datasets.load_dataset("hf_icl", "gaussian", split="icl", cache_dir=cache, n_sequences=3, **SMALL)
    monkeypatch.setattr(SequenceTables, "generate", None)
    again = data.load_dataset("gaussian", split="icl", cache_dir=cache, n_sequences=3, **SMALL)
    assert first[:] == again[:]


def test_the_registry_is_where_it_was():
    """Fails first when a new version of datasets moves what `hf_icl.data.packaged` leans on."""
    table, factory = packaged.find_registry()
    assert {"csv", "json", "parquet"} <= set(table)
    module, fingerprint = table["csv"]
    assert module.startswith("datasets.") and isinstance(fingerprint, str)
    assert callable(factory.get_module)
    assert table["hf_icl"] == (BUILDER_MODULE, fingerprint_sources()) and builder.__name__ == BUILDER_MODULE


def test_registering_loads_neither_torch_nor_the_builder():
    program = (
        "import sys, hf_icl; print([m for m in ('torch', 'transformers', 'hf_icl.data.builder') if m in "
        "sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_moved_registry_is_told_with_the_way_out(monkeypatch):
    monkeypatch.delattr("datasets.packaged_modules._PACKAGED_DATASETS_MODULES")
    with pytest.raises(ImportError, match=r"Use hf_icl\.load_dataset with the same arguments"):
        data.register()


# Caches


def test_every_source_that_shapes_rows_is_in_the_hash(tmp_path):
    package = tmp_path / "hf_icl"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = fingerprint_sources(package)
    assert before == fingerprint_sources()
    modules = list_needed("hf_icl.data.builder")
    assert {
        "hf_icl.philox",
        "hf_icl.sequences.alias",
        "hf_icl.banks.omniglot",
        "hf_icl.data.tables",
    } <= modules
    for module in modules:
        path = package.parent / f"{module.replace('.', '/')}.py"
        text = path.read_text()
        path.write_text(text + "#\n")
        assert fingerprint_sources(package) != before, module
        path.write_text(text)
    assert fingerprint_sources(package) == before


def test_edited_code_prepares_anew(cache, monkeypatch):
    def folder():
        return datasets.load_dataset_builder("hf_icl", "gaussian", cache_dir=cache).cache_dir

    before = folder()
    monkeypatch.setattr(builder, "fingerprint_sources", lambda: "edited")
    assert folder() != before


def test_changed_files_prepare_anew(cache, tmp_path):
    source = tmp_path / "vectors.npy"
    arguments = {
        "source": str(source),
        "n_classes": 8,
        "with_exemplars": True,
        "n_sequences": 4,
        "n_eval_sequences": 2,
    }
    means = []
    for shift in (0.0, 5.0):
        np.save(
            source, np.random.default_rng(0).normal(size=(8, 3, 2)).astype(np.float32) + np.float32(shift)
        )
        rows = data.load_dataset("features", split="train", cache_dir=cache, **arguments)
        means.append(np.mean([row["exemplars"] for row in rows]))
    assert means[1] - means[0] == pytest.approx(5.0, abs=1e-5)


def test_folders_count_by_their_files(tmp_path):
    def mark():
        return fingerprint_files(parse_arguments("omniglot", {"source": str(tmp_path)}).task.bank)

    empty = mark()
    (tmp_path / "images_background.zip").write_bytes(b"1")
    one = mark()
    (tmp_path / "images_background.zip").write_bytes(b"12")
    assert len({empty, one, mark()}) == 3
    assert mark() == mark()


# A look at sequences


def render(task, *words, **more):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(render_sequences(task, *words, **more))
        return console.export_text()


def test_a_look_shows_roles_classes_labels_and_exemplars():
    task = small_task()
    text = render(task, "icl", start=4, count=2)
    batch = task.sampler("icl").draw(4, 2)
    assert "icl sequence 4" in text and "icl sequence 5" in text
    assert text.count(" burst ") == 6 and text.count("─ query ─") == 2  # 2 per sequence, and the legend
    for row in range(2):
        assert f"class {batch.class_ids[row, 0]} #{batch.exemplar_ids[row, 0]}" in text
        assert f"answer {batch.labels[row, -1]}" in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())


def test_a_thumbnail_has_the_shape_of_its_image():
    cross = torch.zeros(28, 28)
    cross[:, 12:16] = cross[12:16] = 1
    lines = draw_exemplar(cross).splitlines()
    assert [len(line) for line in lines] == [14] * 7
    assert lines[0] == "⠀" * 6 + "⣿⣿" + "⠀" * 6 and lines[3] == "⣿" * 14
    assert draw_exemplar(cross.expand(3, 28, 28)) == draw_exemplar(cross)
    corner = torch.zeros(28, 28)
    corner[2, 0] = corner[0, 1] = corner[27, 27] = (
        1  # the third dot of the left column, the first and last of the right
    )
    assert draw_exemplar(corner)[0] == chr(0x2800 + 0x04 + 0x08) and draw_exemplar(corner)[-1] == chr(
        0x2800 + 0x80
    )
    assert set(draw_exemplar(torch.zeros(5, 5))) == {"⠀", "\n"}


def test_tables_have_the_schema_that_they_declare():
    config = parse_arguments("gaussian", SMALL | {"with_exemplars": True, "noise": 0.1, "n_sequences": 10})
    tables = SequenceTables(Task(config.task, seed=config.seed), config)
    table = pa.concat_tables(tables.generate("train", make_ranges(10)))
    table.validate(full=True)
    assert table.schema == tables.features.arrow_schema and table.num_rows == 10
