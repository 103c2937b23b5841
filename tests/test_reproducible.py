"""A compiled run on a fixed number of threads ends in the same bytes every time."""

import pytest
import torch

from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.training.compiled.compiling import OLDEST_TORCH
from hf_icl.training.compiled.products import look_up


def test_the_gradient_of_a_look_up_adds_up_each_replicas_own_rows():
    tables = torch.zeros(2, 3, 1, requires_grad=True)
    ids = torch.tensor([[[0, 2], [2, 2]], [[1, 1], [0, 1]]])
    weights = torch.tensor([[[1.0, 2.0], [4.0, 8.0]], [[16.0, 32.0], [64.0, 128.0]]])
    (look_up(tables, ids).squeeze(-1) * weights).sum().backward()
    assert tables.grad.squeeze(-1).tolist() == [[1.0, 0.0, 14.0], [64.0, 176.0, 0.0]]


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < OLDEST_TORCH, reason="this torch cannot compile a step")
@pytest.mark.filterwarnings("default")  # torch warns of its own code while it compiles
@pytest.mark.parametrize("places", ["paired", "interleaved"])
def test_compiled_steps_on_two_threads_repeat_to_the_last_bit(tmp_path, places):
    words = ["training.steps=300", "training.compile=true", "training.threads=2", "task.n_eval_sequences=50"]
    words += [
        "training.checkpoint_every=300",
        "evaluate=100",
        f"model.places={places}",
        "training.batch_size=64",
    ]
    made = set()
    for number in range(3):
        run = Run.create(load_config("default", words), tmp_path / str(number))
        run.train()
        files = ("history.jsonl", "checkpoint-300/model.safetensors", "checkpoint-300/optimizer.pt")
        made.add(tuple((run.folder / name).read_bytes() for name in files))
    assert len(made) == 1
