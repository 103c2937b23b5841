from hf_icl.circuits.ablated import Ablation as Ablation
from hf_icl.circuits.attention import Visitor as Visitor, visit as visit
from hf_icl.circuits.effects import (
    Effect as Effect,
    list_lone_heads as list_lone_heads,
    list_single_heads as list_single_heads,
    measure_effects as measure_effects,
)
from hf_icl.circuits.heads import (
    Layout as Layout,
    lay_out as lay_out,
    match_prefix as match_prefix,
    score_context as score_context,
    score_heads as score_heads,
)
from hf_icl.circuits.instrument import (
    HeadInstrument as HeadInstrument,
    HeadScores as HeadScores,
    find_instruments as find_instruments,
)
from hf_icl.circuits.path import DirectPath as DirectPath
