"""Training of the native network with steps that are compiled whole, for one run or for many at once."""

from hf_icl.stacking.compiling import can_compile
from hf_icl.stacking.limits import can_stack, check_replicas, is_compiled
from hf_icl.stacking.trainer import CompiledTrainer, train_together

__all__ = ["CompiledTrainer", "can_compile", "can_stack", "check_replicas", "is_compiled", "train_together"]
