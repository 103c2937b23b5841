"""Omniglot: reading, checking, caching and downloading the archives; split, variants and features."""

import http.server
import io
import json
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console

from hf_icl import Task, TaskConfig
from hf_icl.banks import BlurPCAConfig, OmniglotConfig, load_bank, omniglot_archive as archive_module
from hf_icl.banks.omniglot_archive import open_drawings
from hf_icl.errors import BankError, ConfigError
from hf_icl.task.show import draw_exemplar, render_sequences

CHARACTERS = {"images_background": {"Azure": 4, "Beige": 3}, "images_evaluation": {"Coral": 5}}
N_DRAWINGS, SIZE = 3, 6


def draw_png(rng, mode="1", size=SIZE):
    """Draw strokes black on white, as the authors store them."""
    paper = np.where(rng.random((size, size)) < 0.3, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(paper).convert(mode).save(file, "png")
    return file.getvalue(), 255 - paper


def make_files(seed=0):
    """Return the PNG files of two small archives by path, and the ink by (character, drawing)."""
    rng, files, ink, serial = np.random.default_rng(seed), {}, {}, 0
    for archive, alphabets in CHARACTERS.items():
        for alphabet, n_characters in alphabets.items():
            for character in range(1, n_characters + 1):
                serial += 1
                for drawing in range(1, N_DRAWINGS + 1):
                    name = f"{alphabet}/character{character:02d}"
                    path = f"{archive}/{name}/{serial:04d}_{drawing:02d}.png"
                    files[path], ink[name, drawing - 1] = draw_png(rng)
    return files, ink


def write_zips(folder, files):
    folder.mkdir(exist_ok=True)
    for archive in CHARACTERS:
        with zipfile.ZipFile(folder / f"{archive}.zip", "w") as file:
            for name, content in files.items():
                if name.startswith(archive):
                    file.writestr(name, content)
    return folder


def write_tree(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "omniglot"


@pytest.fixture
def files():
    return make_files()[0]


@pytest.fixture
def source(tmp_path, files):
    return write_zips(tmp_path / "source", files)


def small(source, **settings):
    return OmniglotConfig(source=str(source), **{"n_classes": 8, "n_holdout_classes": 4} | settings)


def look_up_all(bank):
    classes = torch.arange(bank.n_classes)[:, None].expand(-1, bank.n_exemplars)
    return bank.lookup(classes, torch.arange(bank.n_exemplars).expand(bank.n_classes, -1))


# Reading


def test_drawings_are_ink_on_paper_in_sorted_order(source):
    _, ink = make_files()
    drawings = open_drawings(str(source))
    assert drawings.names == tuple(sorted({name for name, _ in ink}))
    assert drawings.ink.dtype == np.uint8 and drawings.ink.shape == (12, N_DRAWINGS, SIZE, SIZE)
    for (name, drawing), expected in ink.items():
        np.testing.assert_array_equal(drawings.ink[drawings.names.index(name), drawing], expected)
    assert drawings.mean_square == pytest.approx(((drawings.ink / 255) ** 2).mean())


def test_tree_and_zips_agree(source, tmp_path, files):
    tree = write_tree(tmp_path / "tree", files)
    assert (open_drawings(str(tree)).ink == open_drawings(str(source)).ink).all()
    (tree / "images_background" / "Azure" / ".DS_Store").touch()
    assert (open_drawings(str(tree)).ink == open_drawings(str(source)).ink).all()


def test_bank_looks_up_images(source):
    _, ink = make_files()
    bank = load_bank(small(source), seed=1)
    images = look_up_all(bank)
    assert bank.kind == "images" and bank.shape == (SIZE, SIZE) and images.dtype == torch.float32
    assert bank.n_labels == 8 and len(set(bank.class_names)) == 12
    for class_id, name in enumerate(bank.class_names):
        for drawing in range(N_DRAWINGS):
            np.testing.assert_array_equal(images[class_id, drawing], ink[name, drawing] / np.float32(255))
    assert bank.scale == pytest.approx(float(images.double().square().mean().sqrt()))


def test_resizing_is_an_area_average(source):
    drawings, halves = open_drawings(str(source)), open_drawings(str(source), 3)
    average = drawings.ink.reshape(12, 3, 3, 2, 3, 2).mean(axis=(3, 5))
    assert np.abs(halves.ink - average).max() < 1.01  # two passes, each rounded


# Split and variants


@pytest.mark.parametrize("seed", [0, 7])
def test_split_stays_when_other_settings_change(source, seed):
    base = load_bank(small(source), seed=seed)
    train, holdout = base.class_names[:8], base.class_names[8:]
    fewer = load_bank(small(source, n_classes=3, n_holdout_classes=2, size=4, n_exemplars=2), seed=seed)
    assert fewer.class_names == train[:3] + holdout[:2]
    augmented = load_bank(small(source, n_classes=64, n_holdout_classes=32, augment=True), seed=seed)
    assert augmented.class_names[::8] == base.class_names
    mapped = load_bank(small(source, feature_map=BlurPCAConfig(n_components=3), size=5), seed=seed)
    assert mapped.class_names == base.class_names
    assert load_bank(small(source), seed=seed + 1).class_names != base.class_names


def test_variants_of_a_character_are_on_one_side_and_are_its_flips_and_rotations(source):
    bank = load_bank(small(source, n_classes=64, n_holdout_classes=32, augment=True), seed=2)
    plain = look_up_all(load_bank(small(source), seed=2))
    sides = [
        {bank.class_names[k].split()[0] for k in bank.class_pools[pool]} for pool in ("train", "holdout")
    ]
    assert len(sides[0]) == 8 and len(sides[1]) == 4 and not sides[0] & sides[1]
    images = look_up_all(bank).view(12, 8, N_DRAWINGS, SIZE, SIZE)
    for character in range(12):
        image = plain[character]
        expected = [torch.rot90(face, k, dims=(1, 2)) for face in (image, image.flip(-1)) for k in range(4)]
        assert {tuple(v.flatten().tolist()) for v in images[character]} == {
            tuple(e.flatten().tolist()) for e in expected
        }
        names = [name.partition(" ")[2] for name in bank.class_names[8 * character : 8 * character + 8]]
        for k, name in [(0, ""), (1, "rot90"), (2, "rot180"), (3, "rot270")]:
            assert images[character, names.index(name)].equal(torch.rot90(image, k, dims=(1, 2)))
        assert images[character, names.index("mirrored")].equal(image.flip(-1))


@pytest.mark.parametrize("augment", [False, True])
def test_feature_map_gives_vectors(source, augment):
    times = 8 if augment else 1
    config = small(
        source, n_classes=8 * times, n_holdout_classes=4 * times, augment=augment, size=6, n_exemplars=2
    ).replace(feature_map=BlurPCAConfig(n_components=4))
    bank = load_bank(config)
    vectors = look_up_all(bank)[: 8 * times]
    assert bank.kind == "vectors" and bank.shape == (4,) and bank.n_exemplars == 2
    assert vectors.square().sum(-1).mean() == pytest.approx(1, rel=1e-5)
    assert bank.scale == pytest.approx(float(vectors.square().mean().sqrt()), rel=1e-5)
    assert vectors.mean(dim=(0, 1)).abs().max() < 1e-5


def test_augmented_features_belong_to_their_images(source):
    """The features of a class are a fixed map of its images: equal inner products up to that map,
    class by class."""
    settings = {"n_classes": 64, "n_holdout_classes": 32, "augment": True, "n_exemplars": 2}
    mapped = load_bank(
        small(source, size=6, feature_map=BlurPCAConfig(sigma=0.5, n_components=36), **settings)
    )
    images = look_up_all(load_bank(small(source, **settings))).flatten(0, 1).flatten(1)
    features = look_up_all(mapped).flatten(0, 1)
    inputs = torch.cat([images, torch.ones(len(images), 1)], dim=1).double()
    fitted = inputs @ torch.linalg.lstsq(inputs, features.double(), driver="gelsd").solution
    assert (fitted - features).abs().max() < 1e-4


@pytest.mark.parametrize("augment", [False, True])
def test_a_look_shows_the_drawings_behind_features(source, augment):
    settings = {"augment": augment, "size": 6}
    if augment:
        settings |= {"n_classes": 8, "n_holdout_classes": 8}
    images = load_bank(small(source, **settings))
    bank = load_bank(small(source, feature_map=BlurPCAConfig(n_components=3), **settings))
    for _ in range(2):  # as made, and moved: pictures stay
        assert bank.pictures.labels.equal(bank.labels)
        assert look_up_all(bank.pictures).equal(look_up_all(images)) and bank.shape == (3,)
        bank = bank.to("cpu")
    assert bank.nbytes < images.nbytes + bank.data.nbytes
    task = Task(TaskConfig(train={"n_context": 2, "burst": 1, "distractor": False}), bank=bank)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_sequences(task, "flip", count=3))
    text = console.export_text()
    batch = task.sampler("flip").draw(0, 3)
    for image in images.lookup(batch.class_ids[0], batch.exemplar_ids[0]):
        picture = draw_exemplar(image)
        assert all(line in text for line in picture.splitlines())
    own = bank.labels[batch.class_ids, 0]
    assert (batch.labels != own).all() and text.count(" own ") + text.count("│own ") >= own.numel()
    for label, mine in zip(batch.labels.flatten().tolist(), own.flatten().tolist(), strict=True):
        assert f" {label} " in text and f"own {mine} " in text


def test_paper_settings_are_the_default():
    config = OmniglotConfig()
    assert (config.n_classes, config.n_holdout_classes, config.size, config.augment) == (
        1600,
        23,
        None,
        False,
    )
    assert config.pixels is None and OmniglotConfig(feature_map={"kind": "blur_pca"}).pixels == 28


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augment": True, "n_classes": 1601},
            "n_classes = 1601: with augment, classes come 8 per character. Make it",
        ),
        ({"augment": True, "n_holdout_classes": 23}, "n_holdout_classes = 23: with augment"),
        (
            {"feature_map": {"kind": "blur_pca"}, "size": 105},
            "size = 105: a feature map takes drawings of at most 64",
        ),
        (
            {"feature_map": {"n_components": 17}, "size": 4},
            "feature_map.n_components = 17: drawings of 4×4 have no more",
        ),
        ({"feature_map": {"sigma": -1}}, "feature_map.sigma = -1: should be greater than 0"),
        ({"size": 1}, "size = 1: should be greater than or equal to 2"),
        ({"source": ""}, "source = '': "),
    ],
)
def test_bad_settings_say_what_and_why(settings, message):
    with pytest.raises(ConfigError) as error:
        OmniglotConfig(**({"n_classes": 1600} | settings))
    assert str(error.value).startswith(message)


# Broken archives


def test_bank_too_small(source):
    with pytest.raises(
        BankError, match=r"source: characters: 12 there, but n_classes = 1600 for training and n_hold"
    ):
        load_bank(OmniglotConfig(source=str(source)))
    with pytest.raises(BankError, match=r"characters \(of 8 classes each\): 12 there, but n_classes = 10 "):
        load_bank(small(source, augment=True, n_classes=80, n_holdout_classes=24))
    with pytest.raises(
        BankError, match=r"drawings: 3 exemplars there, but n_exemplars = 4\. Lower n_exemplars"
    ):
        load_bank(small(source, n_exemplars=4))
    with pytest.raises(BankError, match=r"drawings: 3 exemplars, and n_holdout_exemplars = 3 leaves none"):
        load_bank(small(source, n_holdout_exemplars=3))


def drop(prefix):
    return lambda files: {name: content for name, content in files.items() if not name.startswith(prefix)}


def put(name, content):
    return lambda files: files | {name: content}


BROKEN = [
    (drop("images_evaluation/"), r"images_evaluation\.zip: no drawings at images_evaluation/<Alphabet>/"),
    (
        drop("images_background/Azure/character02"),
        r"images_background\.zip: Azure/character02 is missing\. Fetch",
    ),
    (
        drop("images_background/Azure/character04"),
        r"background\.zip: the character drawn in 0004_01\.png is missing",
    ),
    (
        drop("images_background/Beige/character03"),
        r"images_background\.zip or .*images_evaluation\.zip: the character drawn in 0007_01\.png is missing",
    ),
    (
        drop("images_evaluation/Coral/character03/0010_02.png"),
        r"images_evaluation\.zip: Coral/character03 holds 2 drawings, the other characters 3\. Fetch",
    ),
    (
        put("images_evaluation/Coral/character06/", b""),
        r"images_evaluation\.zip: Coral/character06 holds 0 drawings, the other characters 3",
    ),
    (
        put("images_evaluation/Coral/character03/0010_02.png", b"no image"),
        r"images_evaluation\.zip: images_evaluation/Coral/character03/0010_02\.png cannot be read",
    ),
    (
        put("images_evaluation/Coral/character03/0010_02.png", draw_png(np.random.default_rng(0))[0][:50]),
        r"Coral/character03/0010_02\.png cannot be read",
    ),
    (
        put("images_evaluation/Coral/character03/0010_02.png", draw_png(np.random.default_rng(0), size=7)[0]),
        r"0010_02\.png: drawings must be square and of one size, and this is 7×7, the first 6×6",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_broken_archives_say_which_file_and_what_to_do(tmp_path, files, cache, damage, message):
    folder = write_zips(tmp_path / "broken", damage(files))
    with pytest.raises(BankError, match=message):
        open_drawings(str(folder))
    assert not cache.exists() or list(cache.iterdir()) == []


def test_drawings_that_are_not_square(tmp_path, files):
    file = io.BytesIO()
    PIL.Image.new("1", (6, 7)).save(file, "png")
    with pytest.raises(BankError, match=r"must be square and of one size, and this is 7×6"):
        open_drawings(str(write_zips(tmp_path / "source", dict.fromkeys(files, file.getvalue()))))


def test_an_archive_that_is_missing(source):
    (source / "images_evaluation.zip").unlink()
    with pytest.raises(BankError, match=r"images_evaluation\.zip: not found, .*put both into one folder"):
        open_drawings(str(source))


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_damaged_zip(source, where):
    path = source / "images_evaluation.zip"
    content = bytearray(path.read_bytes())
    if where == "end":
        content = content[:-300]
    else:
        place = 60 if where == "start" else len(content) // 3
        content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(BankError, match=r"images_evaluation\.zip: .*etch (it|the archive) again"):
        open_drawings(str(source))


def test_an_empty_character_folder_of_a_tree(tmp_path, files):
    tree = write_tree(tmp_path / "tree", files)
    (tree / "images_evaluation" / "Coral" / "character06").mkdir()
    with pytest.raises(BankError, match=r"images_evaluation: Coral/character06 holds 0 drawings"):
        open_drawings(str(tree))


# Cache


@pytest.fixture
def decoded(monkeypatch):
    """Count how often archives are decoded."""
    calls, decode = [], archive_module._decode_into
    monkeypatch.setattr(archive_module, "_decode_into", lambda *args: (calls.append(args[2]), decode(*args)))
    return calls


def test_decoded_once_for_each_archive_and_size(source, cache, decoded, tmp_path):
    for size in (None, None, 4, 4, None):
        open_drawings(str(source), size)
    assert decoded == [None, 4]
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".json", ".npy", ".npy"]
    write_zips(tmp_path / "source", make_files(seed=1)[0])
    assert not (
        open_drawings(str(source)).ink == open_drawings(str(write_zips(tmp_path / "b", make_files()[0]))).ink
    ).all()
    assert decoded == [None, 4, None]


@pytest.mark.parametrize("damage", ["cut", "header", "shape", "gone", "facts", "half facts"])
def test_a_broken_cache_is_built_again(source, cache, decoded, damage):
    expected = open_drawings(str(source)).ink.copy()
    (data,), (facts,) = cache.glob("*.npy"), cache.glob("*.json")
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-10])
    elif damage == "header":
        data.write_bytes(b"x" * 300)
    elif damage == "shape":
        np.save(data, expected[:5])
    elif damage == "gone":
        data.unlink()
    elif damage == "facts":
        facts.write_text(json.dumps({"names": []}))
    else:
        facts.write_bytes(facts.read_bytes()[:20])
    assert (open_drawings(str(source)).ink == expected).all() and len(decoded) == 2


def test_changes_to_a_looked_up_image_do_not_reach_the_cache(source):
    drawings = open_drawings(str(source))
    before = drawings.ink.copy()
    drawings.ink[:] = 7
    assert (open_drawings(str(source)).ink == before).all()


# Download


class _Server(http.server.SimpleHTTPRequestHandler):
    cut = False
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if not self.cut:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        if self.cut == "announced":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(source):
    handler = type("Handler", (_Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: handler(*args, directory=str(source))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.address, server.handler = f"http://127.0.0.1:{server.server_port}", handler
        yield server
        server.shutdown()
        thread.join()


def test_archives_are_downloaded_once(server, source):
    for prefix in (server.address, server.address + "/"):
        assert (open_drawings(prefix).ink == open_drawings(str(source)).ink).all()
    assert server.handler.asked == ["/images_background.zip", "/images_evaluation.zip"]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            "announced",
            r"images_background\.zip: the download (ended after \d+ of \d+ bytes|broke off).* Try again, or",
        ),
        (
            "silent",
            r"images_background\.zip: what came is not a whole zip archive\. Try again, or give as source",
        ),
    ],
)
def test_a_download_that_breaks_off_leaves_nothing(server, cache, cut, message):
    server.handler.cut = cut
    with pytest.raises(BankError, match=message):
        open_drawings(server.address)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    server.handler.cut = False
    assert len(open_drawings(server.address).names) == 12


def test_no_server_and_no_file(server):
    with pytest.raises(
        BankError, match=r"nothing/images_background\.zip: cannot be downloaded \(HTTP Error 404.*Try ag"
    ):
        open_drawings(server.address + "/nothing")
    with pytest.raises(
        BankError, match=r"http://127\.0\.0\.1:1/images_background\.zip: cannot be downloaded .*refused"
    ):
        open_drawings("http://127.0.0.1:1")


# The true archives


@pytest.mark.integration
def test_the_true_archives(decoded, omniglot_folder):
    counts = dict(n_classes=12_800, n_holdout_classes=184)
    config = OmniglotConfig(source=str(omniglot_folder), size=28, augment=True, **counts)
    bank = load_bank(config, seed=0)
    assert (bank.n_classes, bank.n_exemplars, bank.shape) == (12_984, 20, (28, 28))
    assert bank.data.shape == (32_460, 28, 28) and len({name.split()[0] for name in bank.class_names}) == 1623
    start = time.perf_counter()
    plain = load_bank(config.replace(augment=False, n_classes=1600, n_holdout_classes=23), seed=0)
    assert time.perf_counter() - start < 3 and decoded == [28]
    assert plain.class_names == bank.class_names[::8]
    drawn = plain.lookup(torch.arange(1623), torch.zeros(1623, dtype=torch.int64))
    assert drawn.min() == 0 and 0.9 < drawn.amax(dim=(1, 2)).mean() and 0.05 < drawn.mean() < 0.12
