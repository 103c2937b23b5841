"""What was measured of a run, row by row, and where the numbers come from. Loads nothing that trains."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.history.columns": ("Columns",),
        "hf_icl.history.history": ("HISTORY_FILE", "History", "Row", "make_row"),
        "hf_icl.history.origin": ("describe_origin",),
        "hf_icl.history.record": ("RunRecord",),
    },
)
