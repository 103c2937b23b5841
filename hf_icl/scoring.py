"""Where metrics that version 0.1.0 pushed to the Hub look for their scores."""

from hf_icl.task.scoring import score

__all__ = ["score"]
