"""What a history says, in numbers, and how sure they are. Arrays in, numbers out."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.summary.intervals": ("bootstrap_curve", "bootstrap_replicas"),
        "hf_icl.summary.measures": (
            "MEASURES",
            "VERDICTS",
            "CurveSummary",
            "Curves",
            "Measure",
            "describe_measures",
            "measure",
        ),
        "hf_icl.summary.summary": ("Summary", "find_floor", "summarize", "summarize_history"),
    },
)
