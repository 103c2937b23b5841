"""Runs on the Hugging Face Hub: publishing them, and bringing them back."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.hub.publisher": ("Publisher", "plan_push", "plan_training"),
        "hf_icl.hub.pull": ("pull_run",),
        "hf_icl.hub.target": ("Selection", "Target"),
    },
)
