"""The native backbone, and the in-context learner around any backbone; both registered with transformers."""

from transformers import AutoConfig, AutoModel

from hf_icl.models.groups import GROUPS, parameter_groups
from hf_icl.models.icl import ICLModel, ICLOutput
from hf_icl.models.icl_config import ICLConfig
from hf_icl.models.resnet import ResNetEncoder
from hf_icl.models.transformer import CausalTransformerModel
from hf_icl.models.transformer_config import CausalTransformerConfig

for _config, _model in ((CausalTransformerConfig, CausalTransformerModel), (ICLConfig, ICLModel)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

__all__ = [
    "GROUPS",
    "CausalTransformerConfig",
    "CausalTransformerModel",
    "ICLConfig",
    "ICLModel",
    "ICLOutput",
    "ResNetEncoder",
    "parameter_groups",
]
