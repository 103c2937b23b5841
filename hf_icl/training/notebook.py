"""What a notebook shows below the trainer's own progress: the last measurements."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import TrainingArguments
from transformers.utils import is_in_notebook

from hf_icl.history.history import History


class NotebookTable:
    """A table in the cell that trains, drawn anew at each measurement; nothing outside of notebooks.

    Args:
        args: Of the trainer; `disable_tqdm` hides this too.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.is_shown = is_in_notebook() and not args.disable_tqdm
        self._handle = None

    def show(self, history: History, metrics: Sequence[str]) -> None:
        """Show the last rows of a history, a column per metric."""
        if not self.is_shown:
            return
        from IPython.display import HTML, display  # there in notebooks alone

        table = HTML(history.render_html(metrics))
        if self._handle is None:
            self._handle = display(table, display_id=True)
        else:
            self._handle.update(table)
