"""Evaluators: what their sequences hold, what counts as right, and what guessing reaches."""

import pytest
import torch

from hf_icl.sequences.spec import Role
from hf_icl.task.config import TaskConfig
from hf_icl.task.evaluators import EVALUATORS, standard_specs
from hf_icl.task.measuring import Evaluator, measure
from hf_icl.task.task import Task

N_LABELS = 8


@pytest.fixture(scope="module")
def task():
    bank = {
        "kind": "gaussian",
        "n_classes": 64,
        "n_holdout_classes": 8,
        "n_exemplars": 4,
        "dim": 8,
        "n_labels": N_LABELS,
    }
    return Task(TaskConfig(bank=bank, n_eval_sequences=400))


def answer(batch, labels):
    """Return logits that choose the given labels."""
    return torch.nn.functional.one_hot(labels, N_LABELS).float() * 20


def in_context_answer(batch):
    """What a perfect in-context learner says: the label that stands on the query's class."""
    same = (batch.class_ids[:, :-1] == batch.class_ids[:, -1:]).int()
    return answer(batch, batch.labels[:, :-1].gather(1, same.argmax(1, keepdim=True)).squeeze(1))


def in_weights_answer(task):
    """What a perfect memory says: the class's own label; anything for a class it never saw."""
    return lambda batch: answer(batch, task.bank.labels[batch.class_ids[:, -1], 0].clamp(min=0))


def test_a_perfect_in_context_learner(task):
    means, _ = measure(task.evaluators, in_context_answer)
    assert means["icl/accuracy"] == means["icl_holdout/accuracy"] == means["train/accuracy"] == 1.0
    assert (
        means["flip/context_accuracy"] == means["flip/accuracy"] == 1.0
        and means["flip/in_weights_accuracy"] == 0.0
    )
    assert means["iwl/accuracy"] == 0.0


def test_a_perfect_memory(task):
    means, _ = measure(task.evaluators, in_weights_answer(task))
    assert means["iwl/accuracy"] == means["train/accuracy"] == means["ciwl/accuracy"] == 1.0
    assert means["flip/in_weights_accuracy"] == 1.0 and means["flip/context_accuracy"] == 0.0
    assert means["icl/accuracy"] < 0.3  # its labels are remapped to {0, 1}; 8 own labels agree by chance


def test_guessing_reaches_the_chance_levels(task):
    generator = torch.Generator().manual_seed(0)
    means, _ = measure(task.evaluators, lambda batch: torch.randn(len(batch), N_LABELS, generator=generator))
    for name, level in task.chance.items():
        if name.endswith("accuracy"):
            assert abs(means[name] - level) < 4 * (level * (1 - level) / 400) ** 0.5, name


def test_chance_levels_by_hand(task):
    chance = task.chance
    assert chance["icl/accuracy"] == chance["iwl/accuracy"] == 1 / N_LABELS
    assert chance["icl/context_accuracy"] == chance["flip/context_accuracy"] == 0.5
    assert "iwl/context_accuracy" not in chance  # the right label never stands in its context


def test_hits_are_the_primary_metric_per_sequence(task):
    means, hits = measure(task.evaluators, in_context_answer)
    assert set(hits) == {
        "train/accuracy",
        "icl/accuracy",
        "icl_holdout/accuracy",
        "iwl/accuracy",
        "ciwl/accuracy",
    } | {"flip/context_accuracy"}
    for name, hit in hits.items():
        assert hit.dtype == torch.bool and hit.shape == (400,) and hit.double().mean().item() == means[name]


def test_results_do_not_depend_on_the_batch_size(task):
    whole, _ = measure(task.evaluators, in_context_answer, batch_size=1000)
    parts, _ = measure(task.evaluators, in_context_answer, batch_size=7)
    assert whole == pytest.approx(parts)


def test_what_the_standard_sequences_hold(task):
    batches = {name: evaluator.batch for name, evaluator in task.evaluators.items()}
    own = task.bank.labels[:, 0]
    icl, holdout, iwl, ciwl, flip = (batches[name] for name in ("icl", "icl_holdout", "iwl", "ciwl", "flip"))
    assert (icl.labels <= 1).all() and ((icl.class_ids[:, :-1] == icl.class_ids[:, -1:]).sum(1) == 2).all()
    assert torch.isin(holdout.class_ids, task.bank.class_pools["holdout"]).all()
    assert (iwl.labels[:, :-1] != iwl.labels[:, -1:]).all() and torch.equal(
        iwl.labels[:, -1], own[iwl.class_ids[:, -1]]
    )
    assert (ciwl.class_ids[:, :-1] != ciwl.class_ids[:, -1:]).all()
    assert ((ciwl.labels[:, :-1] == ciwl.labels[:, -1:]).sum(1) == 1).all()
    assert (flip.labels[:, -1] != own[flip.class_ids[:, -1]]).all()
    assert ((flip.roles == Role.DISTRACTOR).sum(1) == 2).all()


def test_an_odd_context_is_rounded_down_for_two_classes():
    specs = standard_specs(5)
    assert specs["icl"].n_context == 4 and specs["icl"].burst == 2 and specs["iwl"].n_context == 5


def test_the_primary_metric_of_swapped_labels_is_the_in_context_share(task):
    primaries = {name: evaluator.primary for name, evaluator in task.evaluators.items()}
    assert primaries["flip"] == "flip/context_accuracy" and primaries["icl"] == "icl/accuracy"
    assert isinstance(task.evaluators["icl"], Evaluator)


def test_evaluators_by_frequency_are_asked_for_and_drawn_from_their_part():
    bank = {"kind": "gaussian", "n_classes": 80, "n_holdout_classes": 8, "dim": 8, "n_labels": 8}
    train = {"n_context": 4, "burst": 1, "zipf": 1.0, "repeat_exemplars": False}
    config = TaskConfig(bank=bank, train=train, n_eval_sequences=400)
    plain, more = Task(config), Task(config.replace(by_frequency=True))
    added = ["icl_trained", "icl_head", "icl_tail", "iwl_trained", "iwl_head", "iwl_tail"]
    assert list(more.evaluators) == [*plain.evaluators, *added]
    for name, evaluator in plain.evaluators.items():  # the others ask as before
        assert torch.equal(evaluator.batch.exemplar_ids, more.evaluators[name].batch.exemplar_ids)
    rank = {name: more.evaluators[name].batch.class_ids.double().mean() for name in ("icl", *added)}
    assert rank["icl_trained"] < 25 < rank["icl"] < 50 and rank["icl_head"] < 12 and rank["icl_tail"] > 67
    assert not any(evaluator.spec.repeat_exemplars for evaluator in more.evaluators.values())
    named = Task(config.replace(evaluators=("iwl", "iwl_tail")))
    assert (
        list(named.evaluators) == ["iwl", "iwl_tail"]
        and (named.evaluators["iwl_tail"].batch.class_ids >= 60).all()
    )
    assert EVALUATORS["iwl_tail"].metric == "iwl_tail/accuracy" and not EVALUATORS["iwl_tail"].is_shown
