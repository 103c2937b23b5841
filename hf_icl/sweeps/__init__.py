"""Sweeps: a grid or list of runs, stacked where they can be, done by the cores, GPUs or machines at hand."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.sweeps.config": ("Point", "SweepConfig", "list_points", "load_sweep"),
        "hf_icl.sweeps.jobs": ("Job", "share_out"),
        "hf_icl.sweeps.sweep": ("RunSet", "Sweep"),
        "hf_icl.sweeps.train": ("train_sweep",),
    },
)
