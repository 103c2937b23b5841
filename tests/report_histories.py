"""Made-up histories of plausible shape, for tests of the report. Synthetic: no model was trained."""

import base64

import numpy as np

from hf_icl.history.history import ANSWER_TYPE
from hf_icl.history.record import RunRecord

CHANCE = {
    "train/accuracy": 1 / 32,
    "icl/accuracy": 1 / 32,
    "icl/context_accuracy": 0.5,
    "icl_holdout/accuracy": 1 / 32,
    "iwl/accuracy": 1 / 32,
    "ciwl/accuracy": 1 / 32,
    "flip/accuracy": 1 / 32,
    "flip/context_accuracy": 0.5,
}
LAST_STEP = 32_000


SAMPLE = {
    "label_names": None,
    "sequences": {
        name: [
            {"index": n, "classes": [n + 40, n, n, n + 40, n], "exemplars": [0, 1, 2, 3, 4], "labels": labels}
            for n in range(4)
        ]
        for name, labels in {"icl": [1, 0, 0, 1, 0], "iwl": [30, 31, 29, 28, 17]}.items()
    },
}


def answer(hits, name):
    """Return the packed answers that go with an evaluator's hits."""
    hit = hits[f"{name}/accuracy"][:4]
    right = SAMPLE["sequences"][name][0]["labels"][-1]
    packed = np.array(
        [(right if is_right else 12, 0.9 if is_right else 0.1) for is_right in hit], ANSWER_TYPE
    )
    return base64.b64encode(packed.tobytes()).decode()


def rise(steps, at, width):
    return 1 / (1 + np.exp(-(np.log(steps + 1) - np.log(at)) / width))


def make_run(name="synthetic", *, seed=0, fades=True, n_rows=80, n_sequences=512, width=64) -> RunRecord:
    """Return a run whose ICL rises near step 300 and, if `fades`, falls near step 18,000."""
    rng = np.random.default_rng(seed)
    steps = np.unique(np.concatenate([[0], np.geomspace(20, LAST_STEP, n_rows - 1).round()]))
    shift = np.exp(rng.normal(0, 0.12))
    up = rise(steps, 300 * shift, 0.5)
    gone = rise(steps, 18_000 * shift, 0.35) if fades else 0.05 * rise(steps, 9_000, 0.6)
    icl = 1 / 32 + 0.91 * up * (1 - gone)
    iwl = 1 / 32 + 0.7 * (gone if fades else 0.1 * up)
    truth = {
        "icl/accuracy": icl,
        "icl_holdout/accuracy": 1 / 32 + 0.93 * (icl - 1 / 32),
        "iwl/accuracy": iwl,
        "ciwl/accuracy": 1 / 32 + 0.75 * iwl,
        "flip/context_accuracy": 0.5 + 0.35 * up - 0.7 * gone * up,
    }
    ticks = {metric: rng.random(n_sequences) for metric in truth}
    loss = 0.01 + 3.4 / (1 + (steps / 250) ** 0.75) * np.exp(rng.normal(0, 0.03, steps.size))
    rows = []
    for i, step in enumerate(steps.astype(int).tolist()):
        # half of the luck of a sequence stays with it, so that evaluations are correlated, as in a real run
        hits = {
            metric: np.where(rng.random(n_sequences) < 0.5, ticks[metric], rng.random(n_sequences)) < level[i]
            for metric, level in truth.items()
        }
        metrics = {metric: float(hit.mean()) for metric, hit in hits.items()}
        metrics |= {"train/loss": float(loss[i]), "train/accuracy": float(min(1, 1.2 * up[i])) * 0.97}
        metrics |= {
            "icl/probability": metrics["icl/accuracy"] * 0.9,
            "icl/loss": 3.5 * (1 - metrics["icl/accuracy"]),
        }
        rows.append(
            {
                "step": step,
                "sequences": step * 64,
                "metrics": metrics,
                "hits": {m: base64.b64encode(np.packbits(hit)).decode() for m, hit in hits.items()},
                "answers": {name: answer(hits, name) for name in SAMPLE["sequences"]},
            }
        )
    return RunRecord(
        name=name,
        config={"seed": seed, "model": {"d_model": width}, "training": {"steps": LAST_STEP}},
        provenance={
            "seed": seed, "commit": "0" * 40, "command": f"hf-icl run default seed={seed}",
            "versions": {"hf-icl": "0.1.0", "torch": "2.13.0"},
        },
        rows=rows,
        chance=CHANCE,
        sample=SAMPLE,
        n_sequences=dict.fromkeys(("train", "icl", "icl_holdout", "iwl", "ciwl", "flip"), n_sequences),
    )  # fmt: skip
