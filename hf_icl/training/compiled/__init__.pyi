from hf_icl.training.compiled.compiling import can_compile as can_compile
from hf_icl.training.compiled.trainer import (
    CompiledTrainer as CompiledTrainer,
    train_together as train_together,
)
