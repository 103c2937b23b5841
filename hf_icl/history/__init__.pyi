from hf_icl.history.columns import Columns as Columns
from hf_icl.history.history import (
    HISTORY_FILE as HISTORY_FILE,
    History as History,
    make_row as make_row,
)
from hf_icl.history.lines import Row as Row
from hf_icl.history.origin import describe_origin as describe_origin
from hf_icl.history.record import RunRecord as RunRecord
