"""Claims about learning in context and in weights: fixed beforehand, run by sweeps, and judged over seeds."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.experiments.claim": ("Claim", "Criterion", "Scale", "list_claims", "load_claim"),
        "hf_icl.experiments.evidence": ("Evidence",),
        "hf_icl.experiments.judging": ("Finding", "judge_claim", "judge_criterion"),
        "hf_icl.experiments.plan": ("Plan", "plan_claims"),
        "hf_icl.experiments.reproduce": ("reproduce",),
        "hf_icl.experiments.write": ("write_findings",),
    },
)
