"""When in-context learning appears in a Hugging Face model, and when it fades.

Importing the package registers the data sets, so that `datasets.load_dataset("hf_icl", "gaussian")` works. Everything
else is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from hf_icl.data.packaged import register

_MODULES = {
    "hf_icl.banks": ("Bank", "load_bank"),
    "hf_icl.callback": ("TransienceCallback",),
    "hf_icl.data": ("export_parquet", "load_dataset"),
    "hf_icl.errors": ("BankError", "ConfigError", "HfIclError", "RunError"),
    "hf_icl.evaluators": ("Evaluator", "standard_specs"),
    "hf_icl.history": ("History",),
    "hf_icl.models": ("CausalTransformerConfig", "CausalTransformerModel", "ICLConfig", "ICLModel"),
    "hf_icl.report": ("RunRecord", "write_report"),
    "hf_icl.run_config": ("RunConfig", "list_presets", "load_config"),
    "hf_icl.runs": ("Run",),
    "hf_icl.sampler": ("Sampler",),
    "hf_icl.schedule": ("Schedule",),
    "hf_icl.sequences": ("Role", "SequenceBatch", "SequenceSpec"),
    "hf_icl.stacking": ("CompiledTrainer",),
    "hf_icl.summary": ("summarize", "summarize_history"),
    "hf_icl.task": ("Task", "TaskConfig"),
    "hf_icl.trainer": ("Regularization", "TransienceTrainer"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_icl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


register()
