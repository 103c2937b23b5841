"""The sampler: what a sequence depends on, mixtures, and errors. What each option draws is in test_plan."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

import hf_icl.sequences.sampler
from hf_icl.errors import ConfigError
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.sequences.sampler import Sampler
from hf_icl.sequences.spec import SequenceSpec

NAMES = ("index", "class_ids", "exemplar_ids", "labels", "roles")
MIXTURE = [
    SequenceSpec(p_bursty=0.7, zipf=1.0, noise=0.1),
    SequenceSpec(burst=0, fillers="different", query="absent", labels="pasted", weight=2.0),
    SequenceSpec(burst=4, labels="remapped", noise=0.5),
]
SPECS = {"one": SequenceSpec(zipf=1.0), "mixture": MIXTURE}


def make_sampler(specs=MIXTURE, n_classes=40, seed=0, stream=1, labels=None):
    labels = torch.arange(2 * n_classes).view(n_classes, 2) if labels is None else labels
    pools = {"train": torch.arange(n_classes)}
    return Sampler(specs, labels, pools, {"all": (0, 20)}, seed=seed, stream=stream)


def assert_same(first: SequenceBatch, second: SequenceBatch):
    for name in NAMES:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert (first.noise is None) == (second.noise is None)
    assert first.noise is None or torch.equal(first.noise, second.noise)


@pytest.mark.integration
@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_sequences_do_not_depend_on_split_order_or_chunks(specs, monkeypatch):
    sampler = make_sampler(specs)
    whole = sampler.draw(1000, 2000)
    assert whole.index.tolist() == list(range(1000, 3000))
    assert_same(
        SequenceBatch.cat([sampler.draw(1000, 1), sampler.draw(1001, 1234), sampler.draw(2235, 765)]), whole
    )
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert_same(sampler.draw_at(1000 + order), whole[order])
    assert_same(sampler.draw_at(torch.tensor([1500, 1500])), whole[torch.tensor([500, 500])])
    monkeypatch.setattr(hf_icl.sequences.sampler, "CHUNK_WORDS", 5_000)
    assert_same(sampler.draw(1000, 2000), whole)
    assert_same(make_sampler(specs).draw(1000, 2000), whole)


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_other_seeds_and_streams_give_other_sequences(specs):
    draws = [
        make_sampler(specs, seed=s, stream=t).draw(0, 500) for s, t in [(0, 1), (1, 0), (1, 1), (1 << 40, 1)]
    ]
    for i, first in enumerate(draws):
        for second in draws[:i]:
            assert (first.class_ids != second.class_ids).any(1).float().mean() > 0.9
            assert (first.exemplar_ids != second.exemplar_ids).any(1).float().mean() > 0.9


def test_a_spec_draws_the_same_sequences_with_other_pools_of_exemplars():
    """Exemplar pools leave classes, labels and order alone,
    so held-out exemplars can be compared pair by pair."""
    spec = SequenceSpec(zipf=1.0)
    layout = (torch.arange(40)[:, None], {"train": torch.arange(40)})
    few, many = (
        Sampler(spec, *layout, {"all": pool}, seed=0, stream=0).draw(0, 300) for pool in [(0, 5), (5, 20)]
    )
    assert torch.equal(few.class_ids, many.class_ids) and torch.equal(few.roles, many.roles)


ALIKE = {"n_context": 8, "burst": 3}


@pytest.mark.parametrize(
    "more", [{}, {"p_bursty": 0.5}, {"labels": "swapped"}, {"zipf": 1.5}, {"fillers": "different"}]
)
def test_without_replacement_no_exemplar_comes_twice_and_nothing_else_changes(more):
    plain, different = (
        make_sampler(
            SequenceSpec(**ALIKE, **more, repeat_exemplars=repeats), labels=torch.arange(40)[:, None]
        ).draw(0, 2000)
        for repeats in (True, False)
    )
    for name in ("class_ids", "labels", "roles"):
        assert torch.equal(getattr(plain, name), getattr(different, name))

    def count_repeats(batch):
        pairs = batch.class_ids * 1000 + batch.exemplar_ids
        return sum(len(set(row)) < len(row) for row in pairs.tolist())

    assert count_repeats(plain) > 300 and count_repeats(different) == 0
    same = plain.exemplar_ids[:, 0] == different.exemplar_ids[:, 0]
    assert same.all()  # the first place of all picks among all exemplars either way


def test_without_replacement_every_order_of_exemplars_is_as_likely():
    spec = SequenceSpec(n_context=2, burst=2, distractor=False, repeat_exemplars=False)
    pools = {"train": torch.arange(1)}
    sampler = Sampler(spec, torch.zeros(1, 1, dtype=torch.int64), pools, {"all": (4, 8)}, seed=0, stream=1)
    rows = sampler.draw(0, 24_000).exemplar_ids.tolist()
    counts = [rows.count(list(order)) for order in itertools.permutations(range(4, 8), 3)]
    assert sum(counts) == 24_000
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("spec", "n_exemplars", "message"),
    [
        ({"n_context": 8, "burst": 3}, 5, "repeat_exemplars = False: one class may fill 6 places"),
        ({"n_context": 8, "burst": 3, "fillers": "different"}, 3, "may fill 4 places"),
        ({"n_context": 3, "burst": 0, "query": "absent"}, 2, "may fill 3 places"),
        (
            {"n_context": 4, "burst": 1, "matched_exemplars": True},
            9,
            "matched_exemplars = True: .*repeated on purpose",
        ),
    ],
)
def test_what_cannot_be_drawn_without_replacement_is_refused(spec, n_exemplars, message):
    with pytest.raises(ConfigError, match=message):
        pools = {"train": torch.arange(40)}, {"all": (0, n_exemplars)}
        Sampler(
            SequenceSpec(**spec, repeat_exemplars=False), torch.arange(40)[:, None], *pools, seed=0, stream=1
        )


def test_a_part_of_the_pool_by_rank():
    for ranks, zipf, allowed in (
        ((0, 0.25), 0.0, range(10)),
        ((0.75, 1), 2.0, range(30, 40)),
        ((0.5, 1), 0.0, range(20, 40)),
    ):
        sampler = make_sampler(SequenceSpec(ranks=ranks, zipf=zipf), labels=torch.arange(40)[:, None])
        classes, counts = sampler.draw(0, 4000).class_ids[:, -1].unique(return_counts=True)
        assert classes.tolist() == list(allowed)
        expected = np.array([(number + 1.0) ** -zipf for number in allowed])
        assert stats.chisquare(counts.numpy(), expected / expected.sum() * 4000).pvalue > 1e-3
    with pytest.raises(ConfigError, match="ranks = .*two shares in rising order"):
        SequenceSpec(ranks=(0.5, 0.2))


def test_far_index():
    batch = make_sampler().draw(2**40, 3)
    assert batch.index.tolist() == [2**40, 2**40 + 1, 2**40 + 2]
    assert not torch.equal(batch.class_ids, make_sampler().draw(0, 3).class_ids)


def test_shapes_and_types():
    batch = make_sampler().draw(0, 7)
    assert all(getattr(batch, name).dtype == torch.int64 for name in NAMES)
    assert all(getattr(batch, name).shape == (7, 9) for name in NAMES[1:]) and batch.index.shape == (7,)
    assert all(getattr(batch, name).is_contiguous() for name in NAMES)
    assert batch.noise.dtype == torch.float32 and (batch.seed, batch.stream) == (0, 1)
    assert make_sampler(SPECS["one"]).draw(0, 7).noise is None
    assert make_sampler(SequenceSpec(noise=0.25)).draw(0, 2).noise.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_no_sequences(specs):
    empty = make_sampler(specs).draw(5, 0)
    assert len(empty) == 0 and empty.labels.shape == (0, 9)
    assert len(make_sampler(specs).draw_at(torch.empty(0, dtype=torch.int64))) == 0


def test_mixture_shares():
    """Weights 1 : 2 : 1; noise tells the specs apart, and of the first one 7 in 10 have a burst."""
    batch = make_sampler().draw(0, 40_000)
    kinds = [batch.noise == np.float32(level) for level in (0.1, 0.0, 0.5)]
    assert stats.chisquare([int(kind.sum()) for kind in kinds], [10_000, 20_000, 10_000]).pvalue > 1e-3
    has_burst = (batch.roles == 0).any(1)
    first = has_burst[kinds[0]]
    n_bursty = int(first.sum())
    assert stats.binomtest(n_bursty, len(first), 0.7).pvalue > 1e-3
    assert not has_burst[kinds[1]].any() and has_burst[kinds[2]].all()
    assert (batch.labels[kinds[2]] < 2).all()


@pytest.mark.parametrize("p_bursty", [0.0, 0.25, 1.0])
def test_share_of_bursty_sequences(p_bursty):
    batch = make_sampler(SequenceSpec(p_bursty=p_bursty)).draw(0, 10_000)
    n_burst, n_filler = (batch.roles == 0).sum(1), (batch.roles == 2).sum(1)
    assert ((n_burst == 3) & (n_filler == 2) | (n_burst == 0) & (n_filler == 8)).all()
    assert stats.binomtest(int((n_burst == 3).sum()), 10_000, p_bursty).pvalue > 1e-3


def test_sequences_without_burst_are_independent_draws():
    """p_bursty = 0: every place, the query's too, is drawn by class frequency alone."""
    batch = make_sampler(SequenceSpec(p_bursty=0.0, n_context=6, zipf=1.0), n_classes=5).draw(0, 20_000)
    p = np.arange(1.0, 6) ** -1 / (np.arange(1.0, 6) ** -1).sum()
    pairs = (batch.class_ids[:, -1] * 5 + batch.class_ids[:, 0]).bincount(minlength=25).numpy()
    assert stats.chisquare(pairs, 20_000 * np.outer(p, p).flatten()).pvalue > 1e-3


def test_a_mixture_of_one_is_the_spec_alone():
    spec = SequenceSpec(zipf=0.5)
    assert_same(make_sampler([spec]).draw(0, 100), make_sampler(spec).draw(0, 100))


@pytest.mark.parametrize("specs", [[], [SequenceSpec(), SequenceSpec(n_context=9)]])
def test_mixtures_of_several_lengths_are_refused(specs):
    with pytest.raises(ConfigError, match="a mixture needs at least one spec, and all of one context length"):
        make_sampler(specs)


def test_errors_name_the_spec_of_a_mixture():
    specs = [SequenceSpec(), SequenceSpec(burst=0, fillers="different")]
    with pytest.raises(
        ConfigError, match=r"^specs\[1\]\.classes = 'train \(8 in the pool\)': too few classes"
    ):
        make_sampler(specs, n_classes=8)


def test_bad_arguments():
    with pytest.raises(
        ConfigError, match=r"labels = \(40,\): labels must have the shape \(n_classes, labels_per"
    ):
        make_sampler(labels=torch.arange(40))
    with pytest.raises(ConfigError, match="seed = -1"):
        make_sampler(seed=-1)
    with pytest.raises(ConfigError, match="stream = -1"):
        make_sampler(stream=-1)
    sampler = make_sampler()
    with pytest.raises(ValueError, match="start = -1 and count = 3 must not be negative"):
        sampler.draw(-1, 3)
    for index in (torch.tensor([-1]), torch.tensor([[1]]), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="index must be int64"):
            sampler.draw_at(index)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_the_same_bits_on_the_gpu(specs):
    labels, pools = torch.arange(80).view(40, 2), {"train": torch.arange(40)}
    arguments = (specs, labels, pools, {"all": (0, 20)})
    on_gpu = Sampler(*arguments, seed=0, stream=1, device="cuda").draw(0, 50_000)
    assert on_gpu.labels.device.type == "cuda"
    assert_same(on_gpu.to("cpu"), Sampler(*arguments, seed=0, stream=1).draw(0, 50_000))
