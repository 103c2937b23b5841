from hf_icl.theory.fitting import (
    Fit as Fit,
    Pair as Pair,
    fit_model as fit_model,
    read_pair as read_pair,
)
from hf_icl.theory.race import Race as Race
from hf_icl.theory.strategies import Strategies as Strategies
