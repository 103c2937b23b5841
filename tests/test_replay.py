"""A step that is recorded and replayed. Here without a GPU:
operators are noted down and run again on the same memory."""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_icl.training.compiled import CompiledTrainer, replay
from tests.test_stacking import make_run, make_trainer, needs_new_torch


class Recorder(TorchDispatchMode):
    """Notes operators down as a CUDA graph does: what they write is undone,
    and asking for a value is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        names = [argument.name for argument in function._schema.arguments]
        given = dict(zip(names, arguments, strict=False)) | options
        for argument in function._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = given.get(argument.name)
                for tensor in value if isinstance(value, list | tuple) else [value]:
                    self._remember(tensor)
        result = function(*arguments, **options)
        outputs = result if isinstance(result, list | tuple) else [result]
        if not any(value.alias_info for value in function._schema.returns):  # no view of what was there
            self.made |= {
                out.untyped_storage().data_ptr() for out in outputs if isinstance(out, torch.Tensor)
            }
        self.calls.append((function, arguments, options, outputs))
        return result

    def _remember(self, tensor) -> None:
        where = None if tensor is None else tensor.untyped_storage().data_ptr()
        if where is not None and where not in self.made and tensor.data_ptr() not in self.before:
            self.before[tensor.data_ptr()] = (tensor, tensor.clone())

    def undo(self) -> None:
        for tensor, values in self.before.values():
            tensor.copy_(values)

    def replay(self) -> None:
        for function, arguments, options, outputs in self.calls:
            again = function(*arguments, **options)
            again = again if isinstance(again, list | tuple) else [again]
            for out, values in zip(outputs, again, strict=True):
                if isinstance(out, torch.Tensor) and out.data_ptr() != values.data_ptr():
                    out.copy_(values)


def record(function, inputs):
    with Recorder() as recorder:
        output = function(*inputs)
    recorder.undo()
    return recorder.replay, output


@pytest.fixture
def recording(monkeypatch):
    """Steps are recorded, by the stand-in for a GPU; yields how often."""
    recorded = []

    def count(*arguments):
        recorded.append(arguments)
        return record(*arguments)

    monkeypatch.setattr(replay, "can_replay", lambda device: True)
    monkeypatch.setattr(replay, "call_aside", lambda function, inputs: function(*inputs))
    monkeypatch.setattr(replay, "record", count)
    with torch.compiler.set_stance("force_eager"):
        yield recorded


def test_what_is_recorded_is_what_is_called(recording):
    held = torch.zeros(3)

    def add(x):
        held.add_(x)
        return held * 2

    replayed = replay.Replayed(add)
    for number in range(1, 8):
        assert replayed(torch.full((3,), 1.0)).tolist() == [2.0 * number] * 3
    assert len(recording) == 1


def test_what_is_recorded_has_the_layout_of_the_calls_before(recording):
    """A compiler that is asked for another layout compiles anew, which a recording does not survive."""
    layouts = []

    def note(x):
        layouts.append((x.stride(), x.data_ptr()))
        return x + 1

    replayed = replay.Replayed(note)
    for number in range(6):
        wide = torch.full((2, 5, 9), float(number))
        assert torch.equal(replayed(wide[:1, :, :-1]), wide[:1, :, :-1] + 1)
    assert len(layouts) == replay.N_WARM_UP + 1 and len(set(layouts)) == 1


@pytest.mark.integration
@needs_new_torch
def test_a_replayed_run_is_the_stock_run(tmp_path, recording):
    """With a learning rate that moves in every step, clipping, L2 and a resume from step 20."""
    words = ["training.schedule=inverse_sqrt", "training.warmup_steps=7", "training.clip=0.5"]
    words += ["training.regularization={kind: l2, strength: 1e-4}"]
    stock, other = make_run(tmp_path / "stock", *words), make_run(tmp_path / "replayed", *words)
    stock.train()
    trainer = make_trainer(other, CompiledTrainer)
    trainer.train()
    assert len(recording) == 1
    for mine, theirs in zip(other.history.rows, stock.history.rows, strict=True):
        assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-5)
    again = make_trainer(other, CompiledTrainer)
    again.train(resume_from_checkpoint=str(other.folder / "checkpoint-20"))
    assert len(recording) == 2
    for name, weight in again.model.state_dict().items():
        torch.testing.assert_close(weight, trainer.model.state_dict()[name], rtol=0, atol=1e-6)


def test_what_cannot_be_recorded_is_called_and_said(recording, caplog):
    def look(x):
        return x * 2 if x.sum().item() > 0 else x

    replayed = replay.Replayed(look)
    with caplog.at_level(logging.WARNING):
        assert [replayed(torch.tensor([float(n)])).item() for n in range(-2, 6)] == [
            -2,
            -1,
            0,
            2,
            4,
            6,
            8,
            10,
        ]
    assert [
        m for m in caplog.messages if "not recorded as a CUDA graph" in m and "not permitted" in m
    ] == caplog.messages


@pytest.mark.integration
@needs_new_torch
def test_anothers_optimizer_is_not_recorded(tmp_path, recording):
    trainer = make_trainer(make_run(tmp_path / "run"), CompiledTrainer)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.5)
    trainer.train()
    assert not recording
