"""Runs: one walk from config to report, in a folder that can be killed and resumed; replicas of one,
together.
"""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.runs.config": ("RunConfig", "load_config"),
        "hf_icl.runs.extend": ("extend",),
        "hf_icl.runs.folder": ("read_record",),
        "hf_icl.runs.presets": ("list_presets",),
        "hf_icl.runs.replicas": ("train_replicas",),
        "hf_icl.runs.run": ("Run", "build_task"),
        "hf_icl.runs.stackable": ("can_stack", "check_replicas"),
    },
)
