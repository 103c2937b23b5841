"""What a run will cost, counted on a model that is never allocated: parameters, FLOPs, memory, checkpoints."""

from hf_icl.budget.estimate import Budget, estimate
from hf_icl.budget.memory import Memory
from hf_icl.budget.meter import StepCost, measure_forward, measure_step, without_memory
from hf_icl.budget.table import render_budget

__all__ = [
    "Budget",
    "Memory",
    "StepCost",
    "estimate",
    "measure_forward",
    "measure_step",
    "render_budget",
    "without_memory",
]
