"""`python -m hf_icl.sweep SWEEP RUN…`: do one job of a sweep, as `hf-icl sweep` starts it."""

from hf_icl.sweep.worker import main

main()
