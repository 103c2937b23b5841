from hf_icl.hub.publisher import (
    Publisher as Publisher,
    plan_push as plan_push,
    plan_training as plan_training,
)
from hf_icl.hub.pull import pull_run as pull_run
from hf_icl.hub.target import Selection as Selection, Target as Target
