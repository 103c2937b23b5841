"""What every option draws: counts that hold in each sequence, and distributions against the textbook."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from hf_icl.errors import ConfigError
from hf_icl.philox import POLYSEMY_BLOCK, philox_4x32
from hf_icl.sequences.drawing import MAX_SLOTS, least_acceptance
from hf_icl.sequences.sampler import Sampler
from hf_icl.sequences.spec import Role, SequenceSpec

BURST, DISTRACTOR, FILLER, QUERY = (int(role) for role in Role)


def draw(n, n_classes=12, table=None, pool=None, exemplars=(0, 20), seed=0, **settings):
    """Draw n sequences over classes 0 … n_classes − 1, whose labels are their numbers unless a table is
    given."""
    table = torch.arange(n_classes)[:, None] if table is None else table
    pool = torch.arange(n_classes) if pool is None else pool
    sampler = Sampler(
        SequenceSpec(**settings), table, {"train": pool}, {"all": exemplars}, seed=seed, stream=7
    )
    return sampler.draw(0, n)


def zipf(n, exponent):
    p = np.arange(1.0, n + 1) ** -exponent
    return p / p.sum()


def assert_agrees(outcomes, expected):
    """Chi-square of outcome tuples against a dict of their probabilities; nothing else may occur."""
    outcomes = [tuple(row) for row in np.asarray(outcomes).reshape(len(outcomes), -1).tolist()]
    assert set(outcomes) <= set(expected)
    p = np.array(list(expected.values()))
    assert p.sum() == pytest.approx(1)
    places = {outcome: number for number, outcome in enumerate(expected)}
    observed = np.bincount([places[outcome] for outcome in outcomes], minlength=len(p))
    assert (p * len(outcomes)).min() >= 5  # as the test asks
    assert stats.chisquare(observed, p * len(outcomes)).pvalue > 1e-3


def at_role(values, roles, role, n_per_row):
    return values[roles == role].view(len(values), n_per_row)


# ---- what holds in every sequence, whatever the seed ----

SPECS = {
    "default": {},
    "zipf": {"zipf": 1.0},
    "no distractor": {"distractor": False},
    "different": {"burst": 1, "fillers": "different", "zipf": 1.0},
    "icl": {"burst": 4, "labels": "remapped"},
    "remapped with free fillers": {"burst": 1, "labels": "remapped", "n_remap": 9},
    "all remapped": {"burst": 0, "labels": "remapped", "n_remap": 9},
    "iwl": {"burst": 0, "fillers": "different", "query": "absent"},
    "ciwl": {"burst": 0, "query": "absent", "labels": "pasted"},
    "flip": {"burst": 2, "labels": "swapped"},
    "matched": {"matched_exemplars": True},
    "burst only": {"n_context": 3, "distractor": False},
    "short": {"n_context": 1, "burst": 0},
}


@pytest.mark.parametrize("seed", [0, 2**40 + 1])
@pytest.mark.parametrize("labels_per_class", [1, 3])
@pytest.mark.parametrize("settings", SPECS.values(), ids=SPECS)
def test_counts_and_consistency(settings, labels_per_class, seed):
    """Thirty classes share 15 labels, or have three of 90 each."""
    spec = SequenceSpec(**settings)
    labels = torch.arange(30)[:, None] // 2
    if labels_per_class == 3:
        labels = torch.arange(90).view(3, 30).T
    batch = draw(2_000, 30, labels, exemplars=(3, 9), seed=seed, **settings)
    n_distractors = spec.burst * spec.distractor
    counts = [(batch.roles == role).sum(1).unique().tolist() for role in Role]
    assert counts == [[spec.burst], [n_distractors], [spec.n_fillers], [1]]
    assert (batch.roles[:, -1] == QUERY).all()
    query = batch.class_ids[:, -1:]
    assert ((batch.class_ids == query) | (batch.roles != BURST)).all()
    assert ((batch.class_ids != query) | (batch.roles != DISTRACTOR)).all()
    if n_distractors:
        distractors = at_role(batch.class_ids, batch.roles, DISTRACTOR, n_distractors)
        assert (distractors == distractors[:, :1]).all()
    assert 0 <= int(batch.class_ids.min()) and int(batch.class_ids.max()) < 30
    assert batch.exemplar_ids.unique().tolist() == [3, 4, 5, 6, 7, 8]

    same_class = batch.class_ids[:, :, None] == batch.class_ids[:, None, :]
    same_label = batch.labels[:, :, None] == batch.labels[:, None, :]
    if spec.labels != "pasted":
        assert same_label[same_class].all()
    own = (batch.labels[:, :, None] == labels[batch.class_ids]).any(-1)
    if spec.labels == "fixed":
        assert own.all()
    if spec.labels == "remapped":
        assert torch.equal(same_class, same_label)
        assert batch.labels.unique().tolist() == list(range(spec.n_remap))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_different_fillers_all_differ(seed, exponent):
    batch = draw(2_000, 12, n_context=6, burst=1, fillers="different", zipf=exponent, seed=seed)
    kinds = torch.cat([batch.class_ids[:, -1:], at_role(batch.class_ids, batch.roles, DISTRACTOR, 1)], dim=1)
    kinds = torch.cat([kinds, at_role(batch.class_ids, batch.roles, FILLER, 4)], dim=1).sort(1).values
    assert (kinds[:, 1:] > kinds[:, :-1]).all()


@pytest.mark.parametrize("labels_per_class", [1, 2])
@pytest.mark.parametrize("fillers", ["free", "different"])
def test_absent_queries_leave_neither_class_nor_label(fillers, labels_per_class):
    labels = torch.arange(30)[:, None] // 5
    if labels_per_class == 2:  # so a class may share its label with the query's class in some sequences only
        labels = torch.cat([labels, (labels + 1) % 6], dim=1)
    batch = draw(5_000, 30, labels, n_context=4, burst=0, query="absent", fillers=fillers)
    assert (batch.class_ids[:, :-1] != batch.class_ids[:, -1:]).all()
    assert (batch.labels[:, :-1] != batch.labels[:, -1:]).all()


def test_swapped_labels():
    """In each sequence query and distractor class show each other's label, wherever they stand."""
    labels = torch.arange(12)[:, None] // 3
    batch = draw(5_000, 12, labels, burst=2, labels="swapped")
    fixed = labels[batch.class_ids, 0]
    of_query = fixed[:, -1:]
    distractor = at_role(batch.class_ids, batch.roles, DISTRACTOR, 2)[:, :1]
    of_distractor = labels[distractor, 0]
    assert (of_query != of_distractor).all()
    expected = torch.where(batch.class_ids == batch.class_ids[:, -1:], of_distractor, fixed)
    expected = torch.where(batch.class_ids == distractor, of_query, expected)
    assert torch.equal(batch.labels, expected)
    assert (batch.labels[:, -1:] == of_distractor).all()


def test_swapped_labels_of_polysemous_classes_differ():
    table = torch.tensor([[0, 1], [1, 2], [2, 0], [3, 4], [4, 5]])
    batch = draw(5_000, 5, table, n_context=2, burst=1, labels="swapped")
    shown = batch.labels[:, :-1]
    assert (shown[:, 0] != shown[:, 1]).all()
    at_query = shown[batch.roles[:, :-1] == BURST]
    assert torch.equal(at_query, batch.labels[:, -1])
    of_distractor = table[batch.class_ids[:, :-1][batch.roles[:, :-1] == DISTRACTOR]]
    assert (of_distractor == at_query[:, None]).any(1).all()


def test_matched_exemplars():
    batch = draw(4_000, burst=3, matched_exemplars=True)
    bursts = at_role(batch.exemplar_ids, batch.roles, BURST, 3)
    assert (bursts == batch.exemplar_ids[:, -1:]).all()
    distractors = at_role(batch.exemplar_ids, batch.roles, DISTRACTOR, 3)
    assert (distractors != distractors[:, :1]).any()
    assert_agrees(batch.exemplar_ids[:, -1], {(e,): 1 / 20 for e in range(20)})


def test_pools():
    """Ids come from the pool alone, Zipf ranks from its order, exemplars from their range."""
    pool = torch.tensor([9, 2, 30, 17])
    batch = draw(20_000, 40, pool=pool, exemplars=(15, 20), burst=0, n_context=2, zipf=1.0)
    p = dict(zip([(9,), (2,), (30,), (17,)], zipf(4, 1.0), strict=True))
    assert_agrees(batch.class_ids[:, 0], p)
    assert_agrees(batch.class_ids[:, -1], p)
    assert_agrees(batch.exemplar_ids[:, 0], {(e,): 1 / 5 for e in range(15, 20)})


# ---- distributions ----


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_query_and_distractor(exponent):
    """p(q) p(d) / (1 − p(q)): redrawing until the classes differ is drawing from what is left."""
    batch = draw(60_000, 8, burst=1, n_context=3, zipf=exponent)
    p = zipf(8, exponent)
    pairs = {(q, d): p[q] * p[d] / (1 - p[q]) for q, d in itertools.permutations(range(8), 2)}
    distractor = at_role(batch.class_ids, batch.roles, DISTRACTOR, 1)
    assert_agrees(torch.cat([batch.class_ids[:, -1:], distractor], dim=1), pairs)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_free_fillers_are_independent_of_all_else(exponent):
    batch = draw(60_000, 5, burst=2, distractor=False, n_context=4, zipf=exponent)
    p = zipf(5, exponent)
    triples = {(q, a, b): p[q] * p[a] * p[b] for q, a, b in itertools.product(range(5), repeat=3)}
    fillers = at_role(batch.class_ids, batch.roles, FILLER, 2)
    assert_agrees(torch.cat([batch.class_ids[:, -1:], fillers], dim=1), triples)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_different_fillers(exponent):
    """Drawn one by one from what is left, then put in random order."""
    batch = draw(60_000, 5, burst=1, n_context=4, fillers="different", zipf=exponent)
    p = zipf(5, exponent)

    def in_turn(*classes):
        left, probability = 1.0, 1.0
        for c in classes:
            probability *= p[c] / left
            left -= p[c]
        return probability

    expected = {
        (q, d, a, b): (in_turn(q, d, a, b) + in_turn(q, d, b, a)) / 2
        for q, d, a, b in itertools.permutations(range(5), 4)
    }
    distractor = at_role(batch.class_ids, batch.roles, DISTRACTOR, 1)
    fillers = at_role(batch.class_ids, batch.roles, FILLER, 2)
    assert_agrees(torch.cat([batch.class_ids[:, -1:], distractor, fillers], dim=1), expected)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("fillers", ["free", "different"])
def test_absent_queries(fillers, exponent):
    """Classes 0 and 1 share a label, 2 and 3 another, 4 and 5 have their own."""
    label = [0, 0, 1, 1, 2, 3]
    batch = draw(
        60_000,
        6,
        torch.tensor(label)[:, None],
        n_context=2,
        burst=0,
        query="absent",
        fillers=fillers,
        zipf=exponent,
    )
    p = zipf(6, exponent)
    expected = {}
    for q, a, b in itertools.product(range(6), repeat=3):
        left = sum(p[c] for c in range(6) if label[c] != label[q])
        if label[q] in (label[a], label[b]) or (fillers == "different" and a == b):
            continue
        if fillers == "free":
            expected[q, a, b] = p[q] * p[a] * p[b] / left**2
        else:
            turns = 1 / (left - p[a]) + 1 / (left - p[b])
            expected[q, a, b] = p[q] * p[a] * p[b] / left * turns / 2
    assert_agrees(batch.class_ids[:, [2, 0, 1]], expected)


def test_swapped_distractors():
    """The distractor comes from the classes with another label than the query's."""
    label = [0, 0, 1, 1, 2]
    batch = draw(40_000, 5, torch.tensor(label)[:, None], n_context=2, burst=1, labels="swapped", zipf=1.0)
    p = zipf(5, 1.0)
    expected = {
        (q, d): p[q] * p[d] / sum(p[c] for c in range(5) if label[c] != label[q])
        for q, d in itertools.product(range(5), repeat=2)
        if label[q] != label[d]
    }
    distractor = at_role(batch.class_ids, batch.roles, DISTRACTOR, 1)
    assert_agrees(torch.cat([batch.class_ids[:, -1:], distractor], dim=1), expected)


def test_exemplars_are_uniform_and_independent():
    batch = draw(40_000, exemplars=(2, 7))
    pairs = {pair: 1 / 25 for pair in itertools.product(range(2, 7), repeat=2)}
    for places in ([0, 1], [3, 8], [7, 8]):
        assert_agrees(batch.exemplar_ids[:, places], pairs)
    assert_agrees(
        torch.stack([batch.class_ids[:, -1], batch.exemplar_ids[:, -1]], 1),
        {(c, e): 1 / 60 for c, e in itertools.product(range(12), range(2, 7))},
    )


def test_role_positions():
    batch = draw(60_000)
    orders = set(itertools.permutations([BURST] * 3 + [DISTRACTOR] * 3 + [FILLER] * 2))
    assert_agrees(batch.roles[:, :-1], {order: 1 / 560 for order in orders})


def test_remapped_labels():
    """Three different classes: each of the 60 ways to give them three of five labels."""
    batch = draw(40_000, n_context=2, burst=0, fillers="different", labels="remapped", n_remap=5)
    assert_agrees(batch.labels, {labels: 1 / 60 for labels in itertools.permutations(range(5), 3)})


def test_remapped_labels_do_not_depend_on_the_class():
    batch = draw(40_000, 4, burst=4, labels="remapped")
    expected = {(c, label): 1 / 8 for c, label in itertools.product(range(4), range(2))}
    assert_agrees(torch.stack([batch.class_ids[:, -1], batch.labels[:, -1]], 1), expected)


def test_pasted_labels():
    """One place, any with equal chance, shows the absent query's label; the others keep theirs."""
    batch = draw(20_000, 12, n_context=5, burst=0, query="absent", labels="pasted")
    assert (batch.labels[:, -1] == batch.class_ids[:, -1]).all()
    is_pasted = batch.labels[:, :-1] == batch.labels[:, -1:]
    assert (is_pasted.sum(1) == 1).all()
    assert torch.equal(batch.labels[:, :-1][~is_pasted], batch.class_ids[:, :-1][~is_pasted])
    assert (batch.class_ids[:, :-1] != batch.class_ids[:, -1:]).all()
    assert_agrees(is_pasted.long().argmax(1), {(place,): 1 / 5 for place in range(5)})


def test_polysemy():
    """Each class draws one of its labels per sequence, with no regard to the other classes."""
    table = torch.arange(30).view(10, 3)
    batch = draw(30_000, 10, table, n_context=2, burst=1)
    choice = batch.labels % 3
    assert torch.equal(batch.labels // 3, batch.class_ids)
    at_query = choice[:, -1:]
    assert (at_role(choice, batch.roles, BURST, 1) == at_query).all()
    at_distractor = at_role(choice, batch.roles, DISTRACTOR, 1)
    pairs = {pair: 1 / 9 for pair in itertools.product(range(3), repeat=2)}
    assert_agrees(torch.cat([at_query, at_distractor], 1), pairs)
    assert_agrees(
        torch.stack([batch.class_ids[:, -1], choice[:, -1]], 1),
        {(c, k): 1 / 30 for c, k in itertools.product(range(10), range(3))},
    )


# ---- a twin in plain Python ----


def twin_words(index, block, seed, stream):
    counter = torch.tensor([index & 0xFFFFFFFF, index >> 32, block, stream])
    return philox_4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).tolist()


def draw_twin(index, seed, stream):
    """The default spec over 16 equally likely classes, whose buckets in the alias table are the classes."""
    words = [word for block in range(1, 5) for word in twin_words(index, block, seed, stream)]
    classes = []
    for slot in range(4):
        drawn, attempt = words[slot] * 16 >> 32, 0
        while slot == 1 and drawn == classes[0]:
            attempt += 1
            drawn = twin_words(index, attempt * MAX_SLOTS + slot, seed, stream)[0] * 16 >> 32
        classes.append(drawn)
    orders = sorted(set(itertools.permutations([0, 0, 0, 1, 1, 1, 2, 2])))
    slots = list(orders[words[4] * len(orders) >> 32])
    slots[7 - slots[::-1].index(2)] = 3
    class_ids = [classes[slot] for slot in [*slots, 0]]
    exemplar_ids = [word * 20 >> 32 for word in words[5:14]]
    roles = [(BURST, DISTRACTOR, FILLER, FILLER)[slot] for slot in slots] + [QUERY]
    return class_ids, exemplar_ids, [c % 5 for c in class_ids], roles


def test_twin_in_plain_python():
    seed, stream = 2**33 + 5, 11
    index = torch.cat([torch.arange(60), torch.arange(2**32 - 5, 2**32 + 5)])
    sampler = Sampler(
        SequenceSpec(),
        torch.arange(16)[:, None] % 5,
        {"train": torch.arange(16)},
        {"all": (0, 20)},
        seed=seed,
        stream=stream,
    )
    batch = sampler.draw_at(index)
    for row, number in enumerate(index.tolist()):
        drawn = tuple(
            tensor[row].tolist()
            for tensor in (batch.class_ids, batch.exemplar_ids, batch.labels, batch.roles)
        )
        assert drawn == draw_twin(number, seed, stream)


def test_polysemy_takes_the_block_of_the_class():
    table = torch.arange(24).view(12, 2)
    batch = draw(20, 12, table, seed=3)
    for row in range(20):
        for c, label in zip(batch.class_ids[row].tolist(), batch.labels[row].tolist(), strict=True):
            word = twin_words(row, POLYSEMY_BLOCK + c, 3, 7)[0]
            assert label == 2 * c + (word * 2 >> 32)


# ---- what the pools cannot give ----


@pytest.mark.parametrize(
    ("settings", "n_classes", "message"),
    [
        (
            {},
            1,
            "classes = 'train (1 in the pool)': too few classes: a sequence needs 2 different ones. "
            "Take a bank with more classes",
        ),
        (
            {"burst": 0, "fillers": "different"},
            8,
            "'train (8 in the pool)': too few classes: a sequence needs 9 different ones",
        ),
        ({"burst": 0, "query": "absent"}, 1, "a sequence needs 2 different ones"),
        ({}, 0, "a sequence needs 2 different ones"),
        ({"burst": 0}, 0, "a sequence needs 1 different ones"),
        ({"exemplars": "train"}, 12, "exemplars = 'train': the pool holds no exemplars. Split the bank"),
        (
            {"exemplars": "holdout"},
            12,
            "exemplars = 'holdout': the bank has no such pool. It has: all, train.",
        ),
        (
            {"classes": "holdout", "labels": "remapped", "n_remap": 9},
            12,
            "classes = 'holdout': the bank has no such",
        ),
        (
            {"burst": 3, "labels": "remapped", "n_remap": 20},
            12,
            "n_remap = 20: remapped labels must be among the bank's",
        ),
        ({"zipf": 9.0}, 12, "those still allowed must keep a probability of 1%, and here it can fall to 0.2"),
    ],
)
def test_pools_that_are_too_small(settings, n_classes, message):
    sampler = {"table": torch.arange(12)[:, None], "pool": torch.arange(n_classes)}
    spec = SequenceSpec(**settings)
    with pytest.raises(ConfigError) as error:
        Sampler(
            spec,
            sampler["table"],
            {"train": sampler["pool"]},
            {"all": (0, 20), "train": (5, 5)},
            seed=0,
            stream=0,
        )
    assert message in str(error.value)


def test_classes_without_labels():
    table = torch.tensor([[0], [1], [-1], [2]])
    with pytest.raises(ConfigError, match="some classes of the pool have no fixed label"):
        draw(1, 4, table)
    assert len(draw(1, 4, table, burst=4, labels="remapped"))


def test_steep_zipf_bars_different_fillers_only():
    """At exponent 3, seven of twelve classes leave 0.5 % of the probability, the likeliest alone 17 %."""
    assert len(draw(100, 12, zipf=3.0, burst=1))
    with pytest.raises(ConfigError, match=r"here it can fall to 0\.\d\d% "):
        draw(1, 12, zipf=3.0, burst=1, fillers="different")
    assert len(draw(100, 12, zipf=3.0, burst=1, n_context=3, fillers="different"))


def test_one_label_cannot_be_absent_or_swapped():
    table = torch.zeros(12, 1, dtype=torch.int64)
    for settings in ({"burst": 0, "query": "absent"}, {"labels": "swapped"}):
        with pytest.raises(ConfigError, match="here it can fall to 0.00%"):
            draw(1, 12, table, **settings)


@pytest.mark.parametrize("n_others", [0, 1, 3])
def test_least_acceptance_by_brute_force(n_others):
    """Try every label and every choice of other classes."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights, labels = rng.random(7) ** 3, rng.integers(0, 4, (7, 2))
        worst = 1.0
        for label in np.unique(labels):
            free = [c for c in range(7) if label not in labels[c]]
            for others in itertools.combinations(free, min(n_others, len(free))):
                left = sum(weights[c] for c in free if c not in others) / weights.sum()
                worst = min(worst, left)
        found = least_acceptance(torch.tensor(weights), torch.tensor(labels), n_others)
        assert found == pytest.approx(worst, abs=1e-12)
