"""Banks: labels, splits, look-up, Gaussian statistics, features of one's own, the feature map."""

import io
import math
from typing import ClassVar

import datasets
import numpy as np
import PIL.Image
import pydantic
import pytest
import safetensors.torch
import torch

from hf_icl.banks import (
    BankConfig,
    BlurPCAConfig,
    FeaturesConfig,
    GaussianConfig,
    SymbolicConfig,
    assign_labels,
    load_bank,
    make_bank,
)
from hf_icl.banks.bank import measure_scale, track, turn
from hf_icl.banks.cache import find_cache_folder, open_cached
from hf_icl.banks.feature_map import fit_features
from hf_icl.banks.splits import split_classes
from hf_icl.config import Config
from hf_icl.errors import BankError, ConfigError, FileError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_datasets")


@pytest.fixture(scope="module")
def gaussian():
    return load_bank(GaussianConfig(n_classes=600, n_holdout_classes=200, n_exemplars=10, dim=48), seed=3)


def all_exemplars(bank):
    classes = torch.arange(bank.n_classes)[:, None].expand(-1, bank.n_exemplars)
    return bank.lookup(classes, torch.arange(bank.n_exemplars).expand(bank.n_classes, -1))


# Labels


def test_own_labels_are_ranks_in_the_training_pool():
    labels, n_labels = assign_labels(4, 2, n_labels=None)
    assert labels.tolist() == [[0], [1], [2], [3], [-1], [-1]] and n_labels == 4


def test_shared_labels_are_uniform_and_stay_when_classes_are_added():
    few, _ = assign_labels(1000, 0, n_labels=8, seed=5)
    many, n_labels = assign_labels(8000, 7, n_labels=8, seed=5)
    assert n_labels == 8 and many[:1000].equal(few) and (many[8000:] == -1).all()
    expected = 8000 / 8
    chi_square = ((torch.bincount(many[:8000, 0], minlength=8) - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001
    assert not assign_labels(1000, 0, n_labels=8, seed=6)[0].equal(few)


def test_polysemy_gives_different_labels_uniformly():
    labels, _ = assign_labels(6000, 0, n_labels=5, labels_per_class=3, seed=1)
    ordered = labels.sort(dim=1).values
    assert (ordered.diff(dim=1) > 0).all() and ordered.min() == 0 and ordered.max() == 4
    codes = labels @ torch.tensor([25, 5, 1])
    counts = torch.bincount(codes)
    counts = counts[counts > 0]
    assert len(counts) == 5 * 4 * 3  # every ordered triple of different labels
    assert ((counts - 100.0) ** 2 / 100).sum() < 98.3  # 59 degrees of freedom, p = 0.001
    assert labels[:, :1].equal(assign_labels(6000, 0, n_labels=5, seed=1)[0])


def test_all_labels_of_a_class_at_once_are_a_permutation():
    labels, _ = assign_labels(50, 0, n_labels=4, labels_per_class=4, seed=2)
    assert (labels.sort(dim=1).values == torch.arange(4)).all()


# Splits


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_split_takes_training_from_the_start_and_holdout_from_the_end(seed):
    full = split_classes(50, 40, 10, seed=seed, what="x")
    assert full.sort().values.equal(torch.arange(50))
    part = split_classes(50, 12, 3, seed=seed, what="x")
    assert part[:12].equal(full[:12]) and part[12:].equal(full[40:43])
    assert not split_classes(50, 40, 10, seed=seed + 1, what="x").equal(full)


def test_split_of_too_few_classes_is_an_error():
    with pytest.raises(
        BankError, match=r"^x: 5 there, but n_classes = 4 .* n_holdout_classes = 2 make 6\. Lower"
    ):
        split_classes(5, 4, 2, seed=0, what="x")


def test_pools_and_exemplar_split():
    config = SymbolicConfig(n_classes=5, n_holdout_classes=2, n_exemplars=6, n_holdout_exemplars=2)
    bank = load_bank(config)
    assert {name: ids.tolist() for name, ids in bank.class_pools.items()} == {
        "train": [0, 1, 2, 3, 4],
        "holdout": [5, 6],
    }
    assert bank.exemplar_pools == {"all": (0, 6), "train": (0, 4), "holdout": (4, 6)}
    assert bank.n_classes == 7 and bank.n_labels == 5 and bank.labels.shape == (7, 1)


# Ids


def test_symbolic_ids_number_all_exemplars():
    bank = load_bank(SymbolicConfig(n_classes=5, n_holdout_classes=2, n_exemplars=3))
    assert bank.kind == "ids" and bank.shape == () and bank.n_ids == 21
    assert all_exemplars(bank).flatten().tolist() == list(range(21))
    assert all_exemplars(bank).dtype == torch.int64


# Gaussian


def test_gaussian_defaults_are_the_embedded_default_regime():
    config = GaussianConfig()
    assert (config.n_classes, config.n_exemplars, config.dim, config.eps, config.n_labels) == (
        768,
        20,
        64,
        1.2,
        32,
    )


def test_gaussian_variance_within_and_between_classes(gaussian):
    """x = (mu + eps·eta)/sqrt(1+eps²): variance eps²/(1+eps²)/D within a class, 1/(1+eps²)/D between."""
    x, eps, dim = all_exemplars(gaussian).double(), 1.2, 48
    within = x.var(dim=1).mean()
    between = x.mean(dim=1).var(dim=0).mean() - within / 10
    assert within * dim == pytest.approx(eps**2 / (1 + eps**2), rel=0.01)
    assert between * dim == pytest.approx(1 / (1 + eps**2), rel=0.02)
    assert x.mean().abs() < 1e-3
    assert gaussian.scale == pytest.approx(48**-0.5) and gaussian.scale == pytest.approx(
        measure_scale(gaussian.data, gaussian.rows), rel=0.01
    )


def test_gaussian_exemplars_of_one_class_share_a_mean_and_nothing_else(gaussian):
    x = all_exemplars(gaussian).double()
    same = torch.einsum("kd,kd->k", x[:, 0], x[:, 1]).mean()
    other = torch.einsum("kd,kd->k", x[:-1, 0], x[1:, 0]).mean()
    assert same == pytest.approx(1 / (1 + 1.2**2), abs=0.02) and abs(other) < 0.02


def test_gaussian_without_noise_is_its_mean():
    x = all_exemplars(load_bank(GaussianConfig(n_classes=4, n_exemplars=3, eps=0, dim=5, n_labels=2)))
    assert x[:, 0].equal(x[:, 1]) and not x[0].equal(x[1])


def test_gaussian_class_depends_on_seed_and_class_alone(gaussian):
    other = load_bank(
        GaussianConfig(n_classes=700, n_holdout_classes=5, n_exemplars=14, n_holdout_exemplars=3, dim=48),
        seed=3,
    )
    x, y = all_exemplars(gaussian), all_exemplars(other)
    assert y[:600, :10].equal(x[:600])
    assert y[700:, :10].equal(x[600:605])
    assert other.labels[:600].equal(gaussian.labels[:600])


def test_gaussian_seed_of_the_config_goes_before_the_runs_seed():
    config = GaussianConfig(n_classes=8, dim=4, seed=9)
    mine = all_exemplars(load_bank(config, seed=1))
    assert mine.equal(all_exemplars(load_bank(config, seed=2)))
    assert not mine.equal(all_exemplars(load_bank(config.replace(seed=None), seed=2)))


def test_chunks_do_not_show(gaussian, monkeypatch):
    monkeypatch.setattr("hf_icl.banks.gaussian.CHUNK_VALUES", 1000)
    again = load_bank(GaussianConfig(n_classes=600, n_holdout_classes=200, n_exemplars=10, dim=48), seed=3)
    assert again.data.equal(gaussian.data)


# Look-up


def test_lookup_keeps_the_shape_of_the_ids_and_moves(gaussian):
    classes = torch.tensor([[[0, 799]], [[5, 6]]])
    exemplars = torch.tensor([[[9, 0]], [[1, 2]]])
    found = gaussian.lookup(classes, exemplars)
    assert found.shape == (2, 1, 2, 48) and found.dtype == torch.float32
    assert found[1, 0, 1].equal(gaussian.data[6 * 10 + 2])
    assert gaussian.to("cpu") is gaussian
    meta = gaussian.to("meta")
    assert {meta.data.device.type, meta.rows.device.type, meta.class_pools["train"].device.type} == {"meta"}


def test_bank_is_immutable(gaussian):
    with pytest.raises(AttributeError):
        gaussian.n_labels = 3


def test_turn_makes_the_eight_symmetries_of_a_square():
    image = torch.arange(9).view(3, 3)
    turned = turn(image.expand(8, 3, 3), torch.arange(8))
    by_torch = [torch.rot90(face, k) for face in (image, image.flip(-1)) for k in range(4)]
    assert {tuple(t.flatten().tolist()) for t in turned} == {tuple(t.flatten().tolist()) for t in by_torch}
    assert turned[3].equal(torch.rot90(image, 2)) and turned[6].equal(torch.rot90(image))
    assert turned[5].equal(torch.rot90(image, -1)) and turned[1].equal(image.flip(-1))


# Configs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GaussianConfig(n_exemplars=3, n_holdout_exemplars=3),
            "n_holdout_exemplars = 3: one of the n_exemplars",
        ),
        (
            lambda: GaussianConfig(n_labels=2, labels_per_class=3),
            "labels_per_class = 3: a class cannot have more",
        ),
        (lambda: GaussianConfig(dim=0), "dim = 0: should be greater than or equal to 1"),
        (lambda: GaussianConfig(eps=-1), "eps = -1: should be greater"),
        (lambda: GaussianConfig(dims=3), "dims = 3: unknown key. Did you mean dim?"),
        (lambda: SymbolicConfig(n_classes=0), "n_classes = 0: "),
        (lambda: FeaturesConfig(source="x.npy"), "n_classes = None: this setting is required"),
        (lambda: BlurPCAConfig(sigma=0), "sigma = 0: should be greater than 0"),
    ],
)
def test_bad_settings_say_what_and_why(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(message)


def test_kind_chooses_the_config():
    class Parent(Config):
        union_tags: ClassVar = ("gaussian", "symbolic", "omniglot", "features")
        bank: BankConfig = pydantic.Field(default_factory=GaussianConfig)

    assert isinstance(Parent(bank={"kind": "symbolic", "n_classes": 3}).bank, SymbolicConfig)
    with pytest.raises(ConfigError, match=r"^bank\.n_holdout_exemplars = 20: one of"):
        Parent(bank={"kind": "gaussian", "n_holdout_exemplars": 20})


# Features of one's own


def test_npy_of_classes_and_exemplars(tmp_path):
    array = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    bank = load_bank(
        FeaturesConfig(source=str(tmp_path / "a.npy"), n_classes=4, n_holdout_classes=2, n_exemplars=3),
        seed=1,
    )
    order = split_classes(6, 4, 2, seed=1, what="x")
    assert bank.kind == "vectors" and bank.shape == (3,) and all_exemplars(bank).shape == (6, 3, 3)
    np.testing.assert_array_equal(all_exemplars(bank), array[order.numpy(), :3])
    assert bank.scale == pytest.approx(np.sqrt((array[order[:4].numpy(), :3] ** 2).mean()), rel=1e-6)


def test_rows_are_grouped_by_labels_in_any_order_alike(tmp_path):
    rng = np.random.default_rng(1)
    classes = rng.permutation(np.repeat(["ant", "bee", "cat"], [5, 4, 6]))
    rows = rng.normal(size=(15, 2))
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", classes)
    config = FeaturesConfig(
        source=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"), n_classes=3, n_exemplars=4
    )
    bank = load_bank(config)
    for number, name in enumerate(bank.class_names):
        expected = [row for row, label in zip(rows, classes, strict=True) if label == name][:4]
        np.testing.assert_allclose(all_exemplars(bank)[number], np.float32(expected))
    with pytest.raises(
        BankError, match=r"x\.npy: class bee holds 4 exemplars, class cat 6\. Set n_exemplars to 4"
    ):
        load_bank(config.replace(n_exemplars=None))
    with pytest.raises(BankError, match=r"x\.npy: class bee: 4 exemplars there, but n_exemplars = 5\."):
        load_bank(config.replace(n_exemplars=5))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 6), (5, 6)), ((5, 6, 3), (3, 5, 6)), ((1, 5, 6), (1, 5, 6)), ((3, 5, 3), (3, 3, 5))],
)
def test_uint8_images_become_floats_with_channels_first(tmp_path, shape, expected):
    array = np.random.default_rng(0).integers(0, 256, size=(2, 3, *shape), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    bank = load_bank(FeaturesConfig(source=str(tmp_path / "a.npy"), n_classes=2))
    assert bank.kind == "images" and bank.shape == expected
    order = split_classes(2, 2, 0, seed=0, what="x").numpy()
    by_hand = array[order] / np.float32(255)
    by_hand = np.moveaxis(by_hand, -1, 2) if expected != shape else by_hand
    np.testing.assert_allclose(all_exemplars(bank), by_hand, rtol=1e-6)
    assert bank.scale == pytest.approx(np.sqrt((by_hand.astype(np.float64) ** 2).mean()), rel=1e-6)


def test_sources_of_the_same_rows_agree(tmp_path):
    rows = torch.randn(8, 3)
    classes = torch.tensor([2, 0, 1, 2, 0, 1, 1, 0])
    safetensors.torch.save_file({"x": rows.bfloat16().float(), "y": classes}, tmp_path / "a.safetensors")
    safetensors.torch.save_file({"x": rows.bfloat16()}, tmp_path / "one.safetensors")
    np.save(tmp_path / "x.npy", rows.bfloat16().float().numpy())
    np.save(tmp_path / "y.npy", classes.numpy())
    table = datasets.Dataset.from_dict({"label": classes.tolist(), "x": rows.bfloat16().float().tolist()})
    table.to_parquet(tmp_path / "folder.parquet")
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train.parquet")
    common = {"n_classes": 2, "n_holdout_classes": 1, "n_exemplars": 2}
    banks = [
        load_bank(FeaturesConfig(source=str(tmp_path / source), **common, **settings), seed=4)
        for source, settings in [
            ("a.safetensors", {"labels": "y"}),
            ("one.safetensors", {"labels": str(tmp_path / "y.npy")}),
            ("x.npy", {"labels": str(tmp_path / "y.npy")}),
            ("folder.parquet", {}),
            ("data", {"features": "x"}),
        ]
    ]
    for bank in banks[1:]:
        assert all_exemplars(bank).equal(all_exemplars(banks[0])) and bank.class_names == banks[0].class_names


def encode_png(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def test_dataset_with_images_and_named_labels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(6, 4, 4), dtype=np.uint8)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "note": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    columns = {"image": [encode_png(p) for p in pixels], "note": ["n"] * 6, "label": [0, 1, 1, 0, 0, 1]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
    config = FeaturesConfig(source=str(tmp_path / "a.parquet"), n_classes=2)
    bank = load_bank(config)
    assert bank.shape == (4, 4) and sorted(bank.class_names) == ["no", "yes"]
    no = all_exemplars(bank)[bank.class_names.index("no")]
    np.testing.assert_allclose(no, pixels[[0, 3, 4]] / 255, rtol=1e-6)
    small = load_bank(config.replace(size=2))
    halves = pixels[0].reshape(2, 2, 2, 2).mean(axis=(1, 3))
    found = small.lookup(torch.tensor(bank.class_names.index("no")), torch.tensor(0)) * 255
    assert small.shape == (2, 2) and np.abs(found.numpy() - halves).max() < 1.01  # two passes, each rounded


def save(path, array):
    np.save(path, array)
    return str(path)


BAD_FEATURES = [
    (
        {},
        np.zeros((4, 3), np.float32),
        r"a\.npy: shape \(4, 3\) is not \(classes, exemplars, …\)\. Reshape it, or set",
    ),
    ({}, np.zeros((4, 3, 2, 2, 2, 2), np.float32), r"neither vectors nor images\. Reshape"),
    ({}, np.zeros((4, 3, 5, 6, 7), np.float32), r"images of shape \(5, 6, 7\) need 1, 3 or 4 channels"),
    (
        {},
        np.full((4, 3, 2), np.nan, np.float32),
        r"the exemplar in row \d+ has features that are NaN or infinite",
    ),
    ({}, np.array([["a"]]), r"holds <U1, and features are numbers\. Store float32"),
    ({}, np.zeros((3, 3, 2), np.float32), r"a\.npy: classes: 3 there, but n_classes = 4"),
    (
        {"n_exemplars": 4},
        np.zeros((4, 3, 2), np.float32),
        r"class 0: 3 exemplars there, but n_exemplars = 4\. Lower",
    ),
    (
        {"n_holdout_exemplars": 3},
        np.zeros((4, 3, 2)),
        r"n_holdout_exemplars = 3 leaves none for training\. Lower",
    ),
]


@pytest.mark.parametrize(("settings", "array", "message"), BAD_FEATURES)
def test_bad_arrays_say_what_and_why(tmp_path, settings, array, message):
    config = FeaturesConfig(source=save(tmp_path / "a.npy", array), n_classes=4, **settings)
    with pytest.raises(BankError, match=message):
        load_bank(config)


def test_bad_files_say_what_and_why(tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    np.savez(tmp_path / "many", a=np.zeros(3))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    safetensors.torch.save_file(
        {"a": torch.zeros(2, 2, 2), "b": torch.zeros(2)}, tmp_path / "two.safetensors"
    )
    x, y = save(tmp_path / "x.npy", np.zeros((4, 2))), save(tmp_path / "y.npy", np.zeros(5))
    datasets.Dataset.from_dict({"x": [[1.0]], "z": [[2.0]], "label": [0]}).to_parquet(tmp_path / "t.parquet")
    cases = [
        ("none.npy", {}, r"none\.npy: not a readable \.npy array"),
        ("cut.npy", {}, r"cut\.npy: not a readable \.npy array"),
        ("many.npy", {}, r"many\.npy: an archive of several arrays"),
        ("cut.safetensors", {}, r"cut\.safetensors: not a readable safetensors file"),
        ("two.safetensors", {}, r"more than one tensor among \['a', 'b'\]"),
        ("two.safetensors", {"features": "c"}, r"no tensor 'c' among \['a', 'b'\]"),
        ("two.safetensors", {"features": "a", "labels": "c"}, r"has no tensor 'c', only \['a', 'b'\]"),
        (x, {"labels": y}, r"y\.npy: labels of shape \(5,\) do not fit features of shape \(4, 2\)"),
        ("t.parquet", {}, r"more than one column among \['x', 'z'\]"),
        ("t.parquet", {"labels": "y"}, r"no column 'y' among \['x', 'z', 'label'\]"),
        ("t.parquet", {"labels": "x", "features": "z"}, r"column 'x' does not name classes"),
        ("t.parquet", {"split": "test"}, r"t\.parquet: cannot be loaded as a dataset"),
        ("no_such_folder/x", {}, r"no_such_folder/x: cannot be loaded as a dataset .*Set source to"),
    ]
    for source, settings, message in cases:
        with pytest.raises(BankError, match=message):
            load_bank(FeaturesConfig(source=str(tmp_path / source), n_classes=2, **settings))


def test_a_bank_of_ones_own_needs_no_file():
    bank = make_bank("mine", torch.eye(4), torch.arange(4).view(2, 2), n_labels=7, class_names=["a", "b"])
    assert bank.n_labels == 7 and bank.scale == pytest.approx(0.5) and bank.kind == "vectors"


# The feature map


def naive_blur(image, sigma):
    size = len(image)
    blurred = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = np.mgrid[:size, :size]
            blurred[i, j] = (image * np.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * sigma**2))).sum()
    return blurred


@pytest.mark.parametrize("n_variants", [1, 8])
def test_features_agree_with_numpy_svd(n_variants):
    """A twin that blurs pixel by pixel, turns every drawing,
    and takes the SVD of the training characters' rows."""
    rng = np.random.default_rng(0)
    ink = torch.from_numpy(rng.integers(0, 256, size=(9, 4, 6, 6), dtype=np.uint8))
    found = fit_features(ink, 6, n_variants, BlurPCAConfig(sigma=1.5, n_components=5))
    assert found.shape == (9, n_variants, 4, 5) and found.dtype == torch.float32
    turned = torch.stack([turn(ink, torch.full((9, 4), v)) for v in range(n_variants)], dim=1)
    rows = np.stack([naive_blur(image, 1.5).ravel() for image in turned.reshape(-1, 6, 6).numpy() / 255])
    n_train = 6 * n_variants * 4
    centred = rows - rows[:n_train].mean(0)
    axes = np.linalg.svd(centred[:n_train], full_matrices=False)[2][:5]
    twin = centred @ axes.T
    twin /= math.sqrt((twin[:n_train] ** 2).sum(1).mean())
    found = found.reshape(-1, 5).double().numpy()
    assert (found[:n_train] ** 2).sum(1).mean() == pytest.approx(1, rel=1e-5)
    if n_variants == 1:
        np.testing.assert_allclose(np.abs(found), np.abs(twin), atol=1e-5)
    else:  # symmetric drawings have pairs of equal variances, whose axes are free to rotate: keep whole pairs
        variances = np.linalg.svd(centred[:n_train], compute_uv=False) ** 2
        assert variances[4] > variances[5] * 1.01
        np.testing.assert_allclose(found @ found.T, twin @ twin.T, atol=1e-5)


def test_holdout_characters_have_no_part_in_the_fit():
    ink = torch.randint(0, 256, (8, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = BlurPCAConfig(sigma=1.0, n_components=4)
    changed = ink.clone()
    changed[6:] = 0
    assert fit_features(ink, 6, 1, config)[:6].equal(fit_features(changed, 6, 1, config)[:6])


# The cache, and progress


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path))
    assert find_cache_folder() == tmp_path
    monkeypatch.delenv("HF_ICL_CACHE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    assert find_cache_folder() == tmp_path / "home" / "hf_icl"


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_cached(tmp_path / "new" / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(
        FileError, match=r"a: cannot be written \(No space left on device\)\. Make room, or set HF_ICL"
    ):
        with open_cached(tmp_path / "new" / "a"):
            raise OSError(28, "No space left on device")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"), open_cached(tmp_path / "file" / "a"):
        pass


def test_progress_is_shown_only_on_request(capsys):
    assert list(track([1, 2], "Counting", show=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")
    assert list(track([1, 2], "Counting", show=True)) == [1, 2]
    assert capsys.readouterr().out == ""
