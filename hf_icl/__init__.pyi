from hf_icl.banks.bank import Bank as Bank
from hf_icl.banks.kinds import load_bank as load_bank
from hf_icl.banks.own import (
    bank_from_dataset as bank_from_dataset,
    bank_from_images as bank_from_images,
    bank_from_numpy as bank_from_numpy,
)
from hf_icl.data.builder import load_dataset as load_dataset
from hf_icl.data.export import export_parquet as export_parquet
from hf_icl.errors import (
    BankError as BankError,
    ConfigError as ConfigError,
    HfIclError as HfIclError,
    RunError as RunError,
)
from hf_icl.history.history import History as History
from hf_icl.history.record import RunRecord as RunRecord
from hf_icl.models import (
    CausalTransformerConfig as CausalTransformerConfig,
    CausalTransformerModel as CausalTransformerModel,
    ICLConfig as ICLConfig,
    ICLModel as ICLModel,
)
from hf_icl.report.write import write_report as write_report
from hf_icl.runs.config import RunConfig as RunConfig, load_config as load_config
from hf_icl.runs.presets import list_presets as list_presets
from hf_icl.runs.run import Run as Run
from hf_icl.sequences.batch import SequenceBatch as SequenceBatch
from hf_icl.sequences.sampler import Sampler as Sampler
from hf_icl.sequences.spec import Role as Role, SequenceSpec as SequenceSpec
from hf_icl.summary.summary import summarize as summarize, summarize_history as summarize_history
from hf_icl.task.config import TaskConfig as TaskConfig
from hf_icl.task.evaluators import standard_specs as standard_specs
from hf_icl.task.measuring import Evaluator as Evaluator
from hf_icl.task.task import Task as Task
from hf_icl.traces.folder import Trace as Trace
from hf_icl.traces.tracing import trace as trace
from hf_icl.training.callback import TransienceCallback as TransienceCallback
from hf_icl.training.compiled.trainer import CompiledTrainer as CompiledTrainer
from hf_icl.training.regularization import Regularization as Regularization
from hf_icl.training.schedule import Schedule as Schedule
from hf_icl.training.trainer import TransienceTrainer as TransienceTrainer

__version__: str
