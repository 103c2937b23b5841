from hf_icl.sweeps.config import (
    Point as Point,
    SweepConfig as SweepConfig,
    list_points as list_points,
    load_sweep as load_sweep,
)
from hf_icl.sweeps.examples import (
    find_sweep as find_sweep,
    list_examples as list_examples,
)
from hf_icl.sweeps.jobs import Job as Job, share_out as share_out
from hf_icl.sweeps.sweep import RunSet as RunSet, Sweep as Sweep
from hf_icl.sweeps.train import train_sweep as train_sweep
