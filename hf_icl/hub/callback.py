"""`PublishCallback`: puts checkpoints into the outbox as they are saved, and wakes the pusher."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_icl.errors import RunError
from hf_icl.hub.contents import put_step
from hf_icl.hub.outbox import Outbox
from hf_icl.hub.pusher import BackgroundPusher

logger = logging.getLogger(__name__)


class PublishCallback(TrainerCallback):
    """Publishes chosen checkpoints while training goes on; a step waits for links to its files, not for the network.

    Args:
        run: The run folder.
        steps: Which steps to publish.
        outbox: Where they wait.
        pusher: What takes them from there.
    """

    def __init__(self, run: Path, steps: Collection[int], outbox: Outbox, pusher: BackgroundPusher) -> None:
        self.run, self.steps, self.outbox, self.pusher = run, frozenset(steps), outbox, pusher

    def on_save(self, args, state, control, **kwargs) -> None:
        """Put the checkpoint just saved into the outbox. Training goes on where that fails: the checkpoint is whole."""
        if not state.is_world_process_zero or state.global_step not in self.steps:
            return
        try:
            put_step(self.outbox, self.run, self.run / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        except RunError as error:
            logger.warning("%s", error)
            return
        self.pusher.wake()
