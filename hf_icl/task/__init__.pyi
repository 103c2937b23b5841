from hf_icl.task.config import TaskConfig as TaskConfig
from hf_icl.task.evaluators import (
    EVALUATORS as EVALUATORS,
    EvaluatorKind as EvaluatorKind,
    standard_specs as standard_specs,
    title_metric as title_metric,
)
from hf_icl.task.measuring import (
    EVALUATION_BATCH as EVALUATION_BATCH,
    Evaluator as Evaluator,
    Reading as Reading,
)
from hf_icl.task.show import render_sequences as render_sequences
from hf_icl.task.task import (
    Instrument as Instrument,
    Task as Task,
    ask_evaluators as ask_evaluators,
)
