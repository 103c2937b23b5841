"""What a person or the Hub sees of runs: numbers, figures, page, model card. Loads nothing that trains."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.report.analysis": ("Analysis", "analyse"),
        "hf_icl.report.card": ("render_card",),
        "hf_icl.report.write": ("Report", "write_report"),
    },
)
