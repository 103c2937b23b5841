"""Specs refuse what cannot be; batches slice, move and join."""

import pytest
import torch

from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.spec import Role, SequenceSpec


def test_defaults_are_the_paper_training_sequences():
    spec = SequenceSpec()
    assert (spec.n_context, spec.burst, spec.distractor, spec.n_fillers, spec.labels) == (
        8,
        3,
        True,
        2,
        "fixed",
    )


@pytest.mark.parametrize(
    ("settings", "bursty", "burst_free"),
    [
        ({}, 4, 9),
        ({"burst": 4}, 2, 9),
        ({"burst": 3, "distractor": False}, 6, 9),
        ({"burst": 0}, 9, 9),
        ({"n_context": 1, "burst": 0}, 2, 2),
        ({"n_context": 2, "burst": 1}, 2, 3),
    ],
)
def test_slots(settings, bursty, burst_free):
    spec = SequenceSpec(**settings)
    assert (spec.n_slots(), spec.n_slots(bursty=False)) == (bursty, burst_free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"burst": 5},
            "burst = 5: burst and distractor places (10) must fit into n_context = 8. "
            "Lower burst, raise n_context, or set distractor=false.",
        ),
        (
            {"burst": 9, "distractor": False},
            "burst = 9: burst and distractor places (9) must fit into n_context = 8. Lower burst, raise "
            "n_context.",
        ),
        (
            {"burst": 0, "p_bursty": 0.5},
            "p_bursty = 0.5: a share of bursty sequences needs a burst. Set burst ≥ 1, or leave p_bursty at "
            "1.",
        ),
        (
            {"burst": 0, "matched_exemplars": True},
            "matched_exemplars = True: there is no burst place whose exemplar could match the query's. Set "
            "burst ≥ 1.",
        ),
        (
            {"query": "absent"},
            "query = 'absent': the query's class cannot both be absent and fill burst = 3 places. Set "
            "burst=0.",
        ),
        (
            {"query": "absent", "burst": 0, "labels": "remapped", "n_remap": 20},
            "labels = 'remapped': an absent query has no label in the context, so remapped labels give it "
            "no answer. "
            "Take labels=fixed or pasted, or query=free.",
        ),
        (
            {"labels": "swapped", "distractor": False},
            "labels = 'swapped': swapping needs a query class and a distractor class in every context. "
            "Set burst ≥ 1, distractor=true and p_bursty=1.",
        ),
        (
            {"labels": "swapped", "p_bursty": 0.9},
            "labels = 'swapped': swapping needs a query class and a distractor class in every context. "
            "Set burst ≥ 1, distractor=true and p_bursty=1.",
        ),
        (
            {"labels": "pasted", "burst": 0},
            "labels = 'pasted': pasting needs an absent query. Set query=absent and burst=0.",
        ),
        (
            {"classes": "holdout"},
            "classes = 'holdout': holdout classes have no fixed labels, and labels = 'fixed' needs them. "
            "Set labels=remapped, or classes=train.",
        ),
        (
            {"labels": "remapped"},
            "n_remap = 2: a sequence may hold 4 classes, and each needs a label of its own. "
            "Set n_remap ≥ 4, or have fewer fillers.",
        ),
        (
            {"labels": "remapped", "burst": 4, "p_bursty": 0.5},
            "n_remap = 2: a sequence may hold 9 classes, and each needs a label of its own. "
            "Set n_remap ≥ 9, or have fewer fillers.",
        ),
        ({"n_context": 0}, "n_context = 0: "),
        ({"zipf": -1}, "zipf = -1: "),
        ({"p_bursty": 1.5}, "p_bursty = 1.5: "),
        ({"noise": -0.1}, "noise = -0.1: "),
        ({"weight": 0}, "weight = 0: "),
        ({"labels": "random"}, "labels = 'random': "),
        ({"zipf": float("nan")}, "zipf = nan: "),
        ({"fillrs": "free"}, "fillrs = 'free': unknown key. Did you mean fillers?"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        SequenceSpec(**settings)
    text = str(error.value)
    assert text == message or (message.endswith(": ") and text.startswith(message))


@pytest.mark.parametrize(
    "settings",
    [
        {"burst": 4, "labels": "remapped"},
        {"burst": 4, "labels": "remapped", "classes": "holdout"},
        {"burst": 0, "query": "absent", "fillers": "different"},
        {"burst": 0, "query": "absent", "labels": "pasted"},
        {"n_context": 2, "burst": 1, "labels": "swapped"},
        {"p_bursty": 0.0},
    ],
)
def test_the_evaluators_of_the_papers_are_accepted(settings):
    spec = SequenceSpec(**settings)
    assert SequenceSpec(**spec.to_dict()) == spec and spec.replace() == spec


def make_batch(n=5, noise=True, stream=2):
    places = torch.arange(n * 3).view(n, 3)
    level = torch.arange(n, dtype=torch.float32) if noise else None
    return SequenceBatch(
        torch.arange(n), places, places + 1, places + 2, places % 4, level, seed=1, stream=stream
    )


@pytest.mark.parametrize(
    "rows", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False, False])]
)
def test_rows_of_a_batch(rows):
    batch = make_batch()
    part = batch[rows]
    assert len(batch) == 5 and len(part) == 2
    assert part.index.tolist() == [1, 2] and part.noise.tolist() == [1.0, 2.0]
    assert part.class_ids.tolist() == [[3, 4, 5], [6, 7, 8]] and part.labels[0].tolist() == [5, 6, 7]
    assert (part.seed, part.stream) == (1, 2)


def test_one_row_is_a_slice():
    with pytest.raises(TypeError, match=r"batch\[i : i \+ 1\]"):
        make_batch()[0]


def test_join_is_the_inverse_of_slicing():
    for batch in (make_batch(), make_batch(noise=False)):
        joined = SequenceBatch.cat([batch[:2], batch[2:2], batch[2:]])
        for name in ("index", "class_ids", "exemplar_ids", "labels", "roles"):
            assert torch.equal(getattr(joined, name), getattr(batch, name))
        assert (joined.noise is None) == (batch.noise is None) and joined.stream == 2


@pytest.mark.parametrize("others", [[make_batch(stream=3)], [make_batch(noise=False)]])
def test_batches_of_different_kinds_are_not_joined(others):
    with pytest.raises(ValueError, match="one seed and stream"):
        SequenceBatch.cat([make_batch(), *others])
    with pytest.raises(ValueError, match="one seed and stream"):
        SequenceBatch.cat([])


def test_move_to_a_device():
    moved = make_batch(noise=False).to("meta")
    assert moved.labels.device.type == "meta" and moved.noise is None and moved.seed == 1


def test_roles_are_numbered():
    assert [role.name for role in Role] == ["BURST", "DISTRACTOR", "FILLER", "QUERY"]
    assert [int(role) for role in Role] == [0, 1, 2, 3]
