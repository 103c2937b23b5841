"""Training: trainers, the callback that measures, and what goes with a run's fitting."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.training.callback": ("TransienceCallback",),
        "hf_icl.training.compiled.trainer": ("CompiledTrainer",),
        "hf_icl.training.config": ("TrainingConfig",),
        "hf_icl.training.regularization": ("Regularization",),
        "hf_icl.training.schedule": ("Schedule",),
        "hf_icl.training.trainer": ("TransienceTrainer",),
    },
)
