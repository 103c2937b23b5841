from hf_icl.runs.config import RunConfig as RunConfig, load_config as load_config
from hf_icl.runs.extending import extend as extend
from hf_icl.runs.folder import read_record as read_record
from hf_icl.runs.presets import list_presets as list_presets
from hf_icl.runs.replicas import train_replicas as train_replicas
from hf_icl.runs.run import Run as Run, build_task as build_task
from hf_icl.runs.stackable import can_stack as can_stack, check_replicas as check_replicas
