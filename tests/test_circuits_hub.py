"""The heads of a published run, from the Hub alone."""

import json

import pytest


@pytest.mark.slow
def test_heads_of_revisions_are_those_of_the_run_folder(hub, launcher, publication, tmp_path):
    away = launcher.hf_icl("circuits", "ann/undisturbed", "--output", "away", folder=tmp_path)
    assert away.code == 0, away.err
    home = launcher.hf_icl("circuits", publication.run, "--output", "home", folder=tmp_path)
    assert home.code == 0, home.err
    rows = {}
    for name in ("away", "home"):
        lines = (tmp_path / name / "heads.jsonl").read_text().splitlines()
        rows[name] = {row["step"]: row for row in map(json.loads, lines)}
    shared = rows["away"].keys() & rows["home"].keys()
    assert shared and all(rows["away"][step] == rows["home"][step] for step in shared)


@pytest.mark.slow
def test_a_published_run_with_heads_is_measured_again_with_them(hub, launcher, tmp_path):
    words = ["training.steps=4", "training.checkpoint_every=2", "evaluate.every=2", "evaluate.heads=true"]
    small = ["task.bank.n_classes=24", "task.bank.dim=8", "task.bank.n_labels=4", "task.n_eval_sequences=40"]
    small += ["model.d_model=16", "model.n_heads=2", "training.batch_size=8", "training.threads=1"]
    push = ["--push", "ann/heads", "--revisions", "all", "--output", "run"]
    trained = launcher.hf_icl("run", "default", *words, *small, *push, folder=tmp_path)
    assert trained.code == 0, trained.err
    again = launcher.hf_icl("evaluate", "ann/heads", "--all-revisions", folder=tmp_path)
    assert again.code == 0, again.err
