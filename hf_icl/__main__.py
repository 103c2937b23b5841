"""`python -m hf_icl` is `hf-icl`. Ctrl-C ends it quietly from the first moment on: imports take seconds."""

from __future__ import annotations

import signal
import sys
from types import FrameType

INTERRUPTED = 130  # exit code, as of a shell


def main() -> None:
    """Import the command line and run it; after Ctrl-C, nothing that goes wrong on the way out is said."""
    told = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        sys.unraisablehook = lambda _: None  # where Python itself runs what may not fail
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it otherwise
        signal.signal(signal.SIGINT, interrupt)
    try:
        from hf_icl.cli.main import main as run

        run()
    except BaseException as error:
        if told and not isinstance(error, SystemExit):
            sys.exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
