"""Loading script for `datasets` before 4.0: `load_dataset(<this file or folder>, "gaussian",
trust_remote_code=True)`.

The rows are drawn by the installed package `hf_icl`; newer versions of `datasets` need no script, see
README.md.
"""

from hf_icl.data.builder import HfIclSequences


class HfIclSequencesScript(HfIclSequences):
    """The package's builder; a class of the script's own, so that `datasets` writes its lock beside the
    script."""
