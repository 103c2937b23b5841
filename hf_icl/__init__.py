"""When in-context learning appears in a Hugging Face model, and when it fades.

Importing the package registers the data sets, so that `datasets.load_dataset("hf_icl", "gaussian")` works.
Everything else is loaded when it is first asked for.
"""

from hf_icl.data.packaged import register_soon
from hf_icl.lazy import attach

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.banks.bank": ("Bank",),
        "hf_icl.banks.kinds": ("load_bank",),
        "hf_icl.data.builder": ("load_dataset",),
        "hf_icl.data.export": ("export_parquet",),
        "hf_icl.errors": ("BankError", "ConfigError", "HfIclError", "RunError"),
        "hf_icl.history.history": ("History",),
        "hf_icl.history.record": ("RunRecord",),
        "hf_icl.models": ("CausalTransformerConfig", "CausalTransformerModel", "ICLConfig", "ICLModel"),
        "hf_icl.report.write": ("write_report",),
        "hf_icl.runs.config": ("RunConfig", "load_config"),
        "hf_icl.runs.presets": ("list_presets",),
        "hf_icl.runs.run": ("Run",),
        "hf_icl.sequences.batch": ("SequenceBatch",),
        "hf_icl.sequences.sampler": ("Sampler",),
        "hf_icl.sequences.spec": ("Role", "SequenceSpec"),
        "hf_icl.summary.summary": ("summarize", "summarize_history"),
        "hf_icl.task.evaluators": ("standard_specs",),
        "hf_icl.task.measuring": ("Evaluator",),
        "hf_icl.task.task": ("Task", "TaskConfig"),
        "hf_icl.training.callback": ("TransienceCallback",),
        "hf_icl.training.compiled.trainer": ("CompiledTrainer",),
        "hf_icl.training.regularization": ("Regularization",),
        "hf_icl.training.schedule": ("Schedule",),
        "hf_icl.training.trainer": ("TransienceTrainer",),
    },
)
__all__ = ["__version__", *__all__]

register_soon()
