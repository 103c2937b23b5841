"""Loading script for `datasets` before 4.0, where `import hf_icl` alone does not reach: `load_dataset(<this file>)`.

The rows are drawn by the installed package `hf_icl`; newer versions of `datasets` need no script, see README.md.
"""

from hf_icl.data.builder import HfIclSequences, SequencesConfig

__all__ = ["HfIclSequences", "SequencesConfig"]
