from hf_icl.summary.curves import Curves as Curves
from hf_icl.summary.intervals import (
    bootstrap_curve as bootstrap_curve,
    bootstrap_replicas as bootstrap_replicas,
)
from hf_icl.summary.measures import (
    MEASURES as MEASURES,
    CurveSummary as CurveSummary,
    Measure as Measure,
    describe_measures as describe_measures,
    measure as measure,
)
from hf_icl.summary.summary import (
    Summary as Summary,
    find_floor as find_floor,
    prefer_context as prefer_context,
    summarize as summarize,
    summarize_history as summarize_history,
)
from hf_icl.summary.verdicts import VERDICTS as VERDICTS, judge as judge
