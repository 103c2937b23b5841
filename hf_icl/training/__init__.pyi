from hf_icl.training.callback import TransienceCallback as TransienceCallback
from hf_icl.training.compiled.trainer import CompiledTrainer as CompiledTrainer
from hf_icl.training.config import TrainingConfig as TrainingConfig
from hf_icl.training.regularization import Regularization as Regularization
from hf_icl.training.schedule import Schedule as Schedule
from hf_icl.training.trainer import TransienceTrainer as TransienceTrainer
