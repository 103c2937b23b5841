"""Sweeps: a grid or list of runs, stacked where they can be, done by the cores, GPUs or machines at hand."""

from hf_icl.sweep.config import Point, SweepConfig, list_points, load_sweep
from hf_icl.sweep.folder import Sweep
from hf_icl.sweep.planning import Job, plan_jobs
from hf_icl.sweep.train import train_sweep

__all__ = ["Job", "Point", "Sweep", "SweepConfig", "list_points", "load_sweep", "plan_jobs", "train_sweep"]
