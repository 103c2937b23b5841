from hf_icl.plan.budget import Budget as Budget, estimate as estimate
from hf_icl.plan.memory import Memory as Memory
from hf_icl.plan.meter import (
    StepCost as StepCost,
    measure_forward as measure_forward,
    measure_step as measure_step,
    without_memory as without_memory,
)
from hf_icl.plan.pace import Pace as Pace, measure_pace as measure_pace
from hf_icl.plan.table import render_budget as render_budget
