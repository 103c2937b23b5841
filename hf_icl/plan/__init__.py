"""What a run will cost, counted on a model that is never allocated: parameters, FLOPs, memory,
checkpoints."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.plan.budget": ("Budget", "estimate"),
        "hf_icl.plan.memory": ("Memory",),
        "hf_icl.plan.meter": ("StepCost", "measure_forward", "measure_step", "without_memory"),
        "hf_icl.plan.table": ("render_budget",),
    },
)
