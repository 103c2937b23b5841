"""What a type checker says of a program that uses the package: `make lint` checks it, nothing runs it."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np

import hf_icl
from hf_icl import (
    Bank,
    Evaluator,
    History,
    Run,
    RunConfig,
    RunRecord,
    Sampler,
    Schedule,
    SequenceBatch,
    SequenceSpec,
    Task,
    TaskConfig,
    TransienceCallback,
)
from hf_icl.banks import GaussianConfig
from hf_icl.report import Report
from hf_icl.summary import CurveSummary, Summary
from hf_icl.sweeps import Point, SweepConfig

assert_type(hf_icl.__version__, str)

config = TaskConfig(bank=GaussianConfig(n_classes=40, dim=8), train=SequenceSpec(n_context=4, burst=1))
task = Task(config, seed=3)
assert_type(task.bank, Bank)
assert_type(task.n_context, int)
assert_type(task.specs, dict[str, tuple[SequenceSpec, ...]])
sampler = task.sampler("icl")
assert_type(sampler, Sampler)
assert_type(sampler.draw(0, 4), SequenceBatch)
callback = TransienceCallback(task, schedule=Schedule(every=50))
assert_type(callback.record("mine"), RunRecord)

settings = hf_icl.load_config("default", ["seed=1"])
assert_type(settings, RunConfig)
assert_type(settings.replace(seed=2), RunConfig)
assert_type(settings.to_dict(), dict[str, Any])
run = Run.create(settings, "runs/mine")
assert_type(run.folder, Path)
assert_type(run.history, History)
assert_type(hf_icl.write_report([run.record()], "report"), Report)

curve = hf_icl.summarize([0, 100, 200], np.array([0.0, 0.8, 0.1]), chance=0.03)
assert_type(curve, CurveSummary)
assert_type(curve.peak_step, float | None)
assert_type(hf_icl.summarize_history(run.history.rows, run.record().chance), Summary)
assert_type(hf_icl.list_presets(), dict[str, str])

sweep = hf_icl.sweeps.load_sweep("l2")
assert_type(sweep, SweepConfig)
assert_type(hf_icl.sweeps.list_points(sweep), list[Point])

evaluator: Evaluator = next(iter(task.evaluators.values()))
