"""What a history says, in numbers, and how sure they are. Arrays in, numbers out."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.summary.intervals": ("bootstrap_curve", "bootstrap_replicas"),
        "hf_icl.summary.curves": ("Curves",),
        "hf_icl.summary.measures": ("MEASURES", "CurveSummary", "Measure", "describe_measures", "measure"),
        "hf_icl.summary.summary": (
            "Summary",
            "find_floor",
            "prefer_context",
            "summarize",
            "summarize_history",
        ),
        "hf_icl.summary.verdicts": ("VERDICTS", "judge"),
    },
)
