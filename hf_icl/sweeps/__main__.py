"""`python -m hf_icl.sweeps SWEEP RUN…`: do one job of a sweep, as `hf-icl sweep` starts it."""

from hf_icl.sweeps.worker import main

main()
