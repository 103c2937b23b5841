"""Write sequences as Parquet with a card, which `load_dataset(FOLDER)` reads without hf_icl.

Example: python dataset_scripts/hf_icl_sequences/export.py gaussian data/gaussian n_sequences=1000000
n_classes=512
"""

from __future__ import annotations

import argparse
import sys

from hf_icl.config import parse_overrides
from hf_icl.data import export_parquet, parse_arguments
from hf_icl.errors import HfIclError
from hf_icl.task.task import Task


def main() -> int:
    """Parse the command line and export; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="gaussian, symbolic, omniglot, features or vocabulary")
    parser.add_argument("folder", help="a new or empty folder")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help='as for load_dataset("hf_icl", name, …)'
    )
    words = parser.parse_args()
    try:
        config = parse_arguments(words.name, parse_overrides(words.settings))
        export_parquet(
            Task(config.task, seed=config.seed),
            words.folder,
            n_sequences=config.n_sequences,
            with_exemplars=config.with_exemplars,
            progress=True,
        )
    except HfIclError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
