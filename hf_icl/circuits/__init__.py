"""Which heads carry what a model does: scores, a look into any backbone's attention, ablations."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.circuits.ablation": ("Ablation",),
        "hf_icl.circuits.attention": ("Visitor", "visit"),
        "hf_icl.circuits.effects": ("Effect", "list_lone_heads", "list_single_heads", "measure_effects"),
        "hf_icl.circuits.heads": ("Layout", "lay_out", "match_prefix", "score_context", "score_heads"),
        "hf_icl.circuits.instrument": ("HeadInstrument", "HeadScores", "find_instruments"),
        "hf_icl.circuits.path": ("DirectPath",),
    },
)
