"""A task: sequences over a bank, how they reach a model, and the evaluators that ask how they are solved."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.task.evaluators": ("EVALUATORS", "EvaluatorKind", "standard_specs", "title_metric"),
        "hf_icl.task.measuring": ("EVALUATION_BATCH", "Evaluator", "Reading"),
        "hf_icl.task.show": ("render_sequences",),
        "hf_icl.task.task": ("Instrument", "Task", "TaskConfig", "ask_evaluators"),
    },
)
