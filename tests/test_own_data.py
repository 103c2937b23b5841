"""Data and measures of one's own: ways in, what is refused, and what a report says of them."""

import json

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

import hf_icl
from hf_icl.banks.features import FeaturesConfig
from hf_icl.banks.own import bank_from_dataset, bank_from_images, bank_from_numpy
from hf_icl.errors import BankError, ConfigError
from hf_icl.report.write import write_report
from hf_icl.task.config import TaskConfig
from hf_icl.task.task import Task
from tests.test_callback import add, build

N_CLASSES, N_EXEMPLARS, DIM = 12, 4, 6


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).normal(size=(N_CLASSES, N_EXEMPLARS, DIM)).astype(np.float32)


def exemplars_by_class(bank):
    """Return the exemplars of each class by its name, as sets of bytes."""
    every = torch.cartesian_prod(torch.arange(bank.n_classes), torch.arange(bank.n_exemplars))
    values = bank.lookup(*every.unbind(1)).view(bank.n_classes, bank.n_exemplars, *bank.shape)
    return {frozenset(row.numpy().tobytes() for row in rows) for rows in values}


@pytest.mark.parametrize("seed", range(3))
def test_every_way_in_gives_the_same_classes(array, tmp_path, seed):
    """An array by class, rows with labels in any order, a tensor, a data set, and a .npy file of kind
    features."""
    expected = {frozenset(row.tobytes() for row in rows) for rows in array}
    order = np.random.default_rng(seed).permutation(N_CLASSES * N_EXEMPLARS)
    rows, labels = array.reshape(-1, DIM)[order], np.repeat(np.arange(N_CLASSES), N_EXEMPLARS)[order]
    table = datasets.Dataset.from_dict({"x": rows.tolist(), "label": labels.tolist()})
    np.save(tmp_path / "array.npy", array)
    file = FeaturesConfig(source=str(tmp_path / "array.npy"), n_classes=9, n_holdout_classes=3)
    banks = [
        bank_from_numpy(array, seed=seed, n_holdout_classes=3),
        bank_from_numpy(torch.tensor(array), seed=seed, n_holdout_classes=3),
        bank_from_numpy(rows, labels, seed=seed, n_holdout_classes=3),
        bank_from_numpy(rows, [f"class {label:02}" for label in labels], seed=seed, n_holdout_classes=3),
        bank_from_dataset(table, seed=seed, n_holdout_classes=3),
        hf_icl.load_bank(file, seed=seed),
    ]
    for bank in banks:
        assert exemplars_by_class(bank) == expected
        assert len(bank.class_pools["train"]) == 9 and len(bank.class_pools["holdout"]) == 3
    assert exemplars_by_class(bank_from_numpy(array, n_classes=5)) < expected


def test_a_folder_of_images_is_a_bank(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (9, 9), np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    bank = bank_from_images(tmp_path / "pictures", n_holdout_classes=1, n_labels=2)
    assert (bank.name, bank.kind, bank.shape, bank.n_labels) == ("pictures", "images", (9, 9), 2)
    assert set(bank.class_names) == {"cat", "dog", "owl"}
    last = np.asarray(PIL.Image.open(tmp_path / "pictures" / bank.class_names[0] / "1.png"))
    assert np.allclose(bank.lookup(torch.tensor(0), torch.tensor(1)).numpy(), last / 255)
    assert bank_from_images(tmp_path / "pictures", size=4).shape == (4, 4)


def test_load_bank_takes_what_a_config_takes():
    mapping = {"kind": "gaussian", "n_classes": 8, "dim": 4, "n_exemplars": 2}
    ours, theirs = hf_icl.load_bank(mapping, seed=3), Task(TaskConfig(bank=mapping), seed=3).bank
    assert torch.equal(ours.data, theirs.data)
    with pytest.raises(ConfigError, match="Did you mean n_classes"):
        hf_icl.load_bank(mapping | {"n_clases": 4})


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        (np.zeros((3, 2, 4)), "bank_from_numpy"),
        (torch.zeros(3, 2, 4), "bank_from_numpy"),
        (datasets.Dataset.from_dict({"x": [0]}), "bank_from_dataset"),
        ({"kind": "gaussian"}, r"Task\(TaskConfig\(bank=…\)\)"),
        (FeaturesConfig(source="a.npy", n_classes=2), r"Task\(TaskConfig\(bank=…\)\)"),
    ],
)
def test_what_is_no_bank_is_refused_with_the_way_to_one(given, way_out):
    with pytest.raises(ConfigError, match=f"is no Bank.*{way_out}"):
        Task(bank=given)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: bank_from_numpy(np.zeros((4, 2))), "not .classes, exemplars"),
        (lambda: bank_from_numpy(np.zeros((4, 2)), np.zeros(3)), "Give one label for each row"),
        (lambda: bank_from_numpy(np.full((4, 2, 3), np.nan)), "NaN or infinite"),
        (lambda: bank_from_numpy(np.array([["a"]])), "exemplars are numbers"),
        (lambda: bank_from_numpy(np.zeros((4, 2, 3)), n_holdout_classes=4), "Lower one of them"),
        (lambda: bank_from_dataset(datasets.DatasetDict()), "Name a split"),
        (lambda: bank_from_images("/nonexistent"), "/nonexistent: holds no images"),
    ],
)
def test_data_that_make_no_bank_are_refused(make, text):
    with pytest.raises(BankError, match=text):
        make()


@pytest.mark.integration
def test_a_report_states_the_data_that_were_used(array, tmp_path):
    mine = bank_from_numpy(array, name="my arrays", n_holdout_classes=2, n_labels=5)
    task = Task(TaskConfig(n_eval_sequences=20), bank=mine)
    trainer = build(tmp_path, task, max_steps=2)
    callback = add(trainer, task)
    trainer.train()
    record = callback.record("mine")
    assert record.config["task"]["bank"] == record.bank | {"kind": "own"}
    assert not record.reads_tokens
    report = write_report([record], tmp_path / "report", card=tmp_path / "README.md")
    page, card = report.page.read_text("utf-8"), (tmp_path / "README.md").read_text("utf-8")
    assert all("10 + 2 holdout classes × 4 exemplars, my arrays" in text for text in (page, card))
    assert '"n_classes": 768' not in page and "gaussian" not in card + json.dumps(report.document)


@pytest.mark.integration
def test_a_function_measures_the_sequences_of_an_evaluator(array, tmp_path):
    """Its means and hits go where those of the evaluators go."""

    def is_sure(batch, logits):
        return logits.softmax(1).amax(1) > 0.2

    def entropy(batch, logits):
        assert len(batch) == len(logits)
        return torch.distributions.Categorical(logits=logits).entropy()

    own = {"pairs": hf_icl.SequenceSpec(n_context=2, burst=1, distractor=True)}
    config = TaskConfig(n_eval_sequences=20, extra_evaluators=own)
    task = Task(config, bank=bank_from_numpy(array), measures={"icl/sure": is_sure, "pairs/entropy": entropy})
    trainer = build(tmp_path, task, max_steps=2)
    callback = add(trainer, task, schedule=1)
    trainer.train()
    batch = task.evaluators["pairs"].batch
    expected = entropy(batch, task.predict(trainer.model.eval(), batch).detach()).mean().item()
    row = callback.history.rows[-1]
    assert row["metrics"]["pairs/entropy"] == pytest.approx(expected, rel=1e-5)
    assert "icl/sure" in row["hits"] and "pairs/entropy" not in row["hits"]
    assert any("icl/sure" in entry for entry in trainer.state.log_history)
    assert '"pairs/entropy"' in callback.report(tmp_path / "report").page.read_text("utf-8")


@pytest.mark.parametrize("name", ["icll/mine", "icl", "icl/", "icl/accuracy"])
def test_a_measure_without_a_place_is_refused(name):
    with pytest.raises(ConfigError, match="measures = "):
        Task(measures={name: lambda batch, logits: logits[:, 0]})


@pytest.mark.parametrize("give", [lambda n: torch.zeros(n, 2), lambda n: 0.5, lambda n: torch.tensor(0.5)])
def test_a_measure_that_gives_no_value_per_sequence_is_refused(array, give):
    task = Task(bank=bank_from_numpy(array), measures={"icl/mine": lambda batch, logits: give(len(batch))})
    model = hf_icl.ICLModel.from_backbone(None, task.bank, n_context=task.n_context)
    with pytest.raises(ConfigError, match=r"measures.icl/mine = .*: must be a tensor with a number for each"):
        task.measure(model)
