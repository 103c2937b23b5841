"""The kinds of intervention there are."""

from __future__ import annotations

from typing import Annotated

import pydantic

from hf_icl.training.interventions.attention import Ablate, Clamp, Forbid, Temperature
from hf_icl.training.interventions.base import Intervention
from hf_icl.training.interventions.penalty import Regularize
from hf_icl.training.interventions.stop import Stop
from hf_icl.training.interventions.weights import Freeze, Graft, Reset

AnyIntervention = Annotated[
    Ablate | Clamp | Forbid | Temperature | Freeze | Graft | Reset | Regularize | Stop,
    pydantic.Field(discriminator="kind"),
]
KINDS: dict[str, type[Intervention]] = {
    one.model_fields["kind"].default: one
    for one in (Ablate, Clamp, Forbid, Temperature, Freeze, Graft, Reset, Regularize, Stop)
}
"""Name to config class."""
