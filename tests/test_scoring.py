"""Scores worked by hand, and what must hold for any logits."""

import math

import torch

from hf_icl.task.scoring import first_occurrence, score


def test_three_labels_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    scores = score(logits, torch.tensor([[1, 2, 1]]), torch.tensor([2]))
    assert scores["loss"].item() == torch.tensor(-math.log(0.2)).item()
    assert not scores["accuracy"] and not scores["context_accuracy"]
    assert math.isclose(scores["probability"].item(), 0.2, rel_tol=1e-6)
    assert math.isclose(scores["context_probability"].item(), 0.2 / 0.5, rel_tol=1e-6)
    assert math.isclose(scores["context_mass"].item(), 0.5, rel_tol=1e-6)  # label 1 stands twice, counts once
    assert scores["context_chance"].item() == 0.5


def test_the_best_label_in_context_wins_over_a_better_one_outside():
    logits = torch.tensor([[9.0, 1.0, 2.0]])
    scores = score(logits, torch.tensor([[1, 2]]), torch.tensor([2]))
    assert not scores["accuracy"] and scores["context_accuracy"]


def test_a_target_outside_the_context_scores_nothing_there():
    scores = score(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[1, 2]]), torch.tensor([0]))
    assert scores["accuracy"] and not scores["context_accuracy"] and scores["context_probability"] == 0


def test_over_a_context_that_holds_all_labels_both_scorings_agree():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5, generator=generator)
    context = torch.stack([torch.randperm(5, generator=generator) for _ in range(64)])
    scores = score(logits, context, torch.randint(5, (64,), generator=generator))
    assert torch.equal(scores["accuracy"], scores["context_accuracy"])
    assert torch.allclose(scores["probability"], scores["context_probability"])
    assert torch.allclose(scores["context_mass"], torch.ones(64))


def test_large_logits_stay_finite():
    scores = score(torch.tensor([[1e4, -1e4]]), torch.tensor([[1, 1]]), torch.tensor([1]))
    assert scores["loss"].item() == 2e4 and scores["context_probability"].item() == 1.0


def test_first_occurrence_against_a_plain_loop():
    values = torch.randint(4, (50, 6), generator=torch.Generator().manual_seed(1))
    plain = [[v not in row[:i] for i, v in enumerate(row)] for row in values.tolist()]
    assert first_occurrence(values).tolist() == plain
