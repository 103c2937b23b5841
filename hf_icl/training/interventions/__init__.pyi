from hf_icl.training.interventions.attention import (
    Ablate as Ablate,
    Clamp as Clamp,
    Forbid as Forbid,
    Temperature as Temperature,
)
from hf_icl.training.interventions.base import (
    Action as Action,
    Intervention as Intervention,
    Trigger as Trigger,
)
from hf_icl.training.interventions.callback import InterventionCallback as InterventionCallback
from hf_icl.training.interventions.penalty import Regularize as Regularize
from hf_icl.training.interventions.stop import Stop as Stop
from hf_icl.training.interventions.weights import Freeze as Freeze, Graft as Graft, Reset as Reset
