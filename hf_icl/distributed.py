"""One run on several devices, a process each: who writes, what all must know,
and what to say when one is lost."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from hf_icl.errors import ConfigError, HfIclError, LostProcessError

T = TypeVar("T")

TIMEOUT = timedelta(
    minutes=10
)  # of a peer that neither answers nor hangs up; one that dies is noticed at once


def join(*, cpu: bool = False) -> None:
    """Meet the other processes that `torchrun` or `accelerate launch` started;
    does nothing where there are none.

    Args:
        cpu: Train on the CPU although there is an accelerator.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    from accelerate import PartialState

    if cpu or not torch.accelerator.is_available():
        # read by TrainingArguments; else every process trains alone
        os.environ["ACCELERATE_USE_CPU"] = "true"
    PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true", timeout=TIMEOUT)


def leave() -> None:
    """Part from the other processes.

    A trainer is full of cycles, and until they are collected it keeps gloo's threads alive. Those that are
    still there when Python ends may abort the process ("terminate called without an active exception"), and
    the launcher then stops the others, the one that is still writing the report too.

    The group itself goes last. If a part of the trainer were the last to hold it, it would end while Python's
    lock is held, and wait for a thread of gloo's that waits for that lock to let go of a tensor; this name of
    it is dropped without the lock.
    """
    if dist.is_initialized():
        group = dist.group.WORLD
        dist.destroy_process_group()
        gc.collect()
        del group


def count_processes() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def count_cores() -> int:
    """Return how many CPU cores this process may use; where the system cannot tell, how many there are."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def count_devices(*, cpu: bool = False) -> int:
    """Return among how many devices a `Trainer` splits a step: all processes',
    or the GPUs of a process that is alone."""
    alone = 1 if cpu else max(1, torch.cuda.device_count())
    return count_processes() if count_processes() > 1 else alone


def choose_device(*, cpu: bool = False) -> torch.device:
    """Return the accelerator that torch sees; the CPU where there is none, or it is asked for."""
    if not cpu and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def check_joined(world_size: int) -> None:
    """Refuse processes that were started together and know nothing of each other:
    all would write the same files.

    Raises:
        ConfigError: If the launcher started more processes than the trainer knows.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if started > world_size:
        rule = f"{started} processes were started, and each would train alone"
        raise ConfigError("world_size", world_size, rule, "Without a GPU, set use_cpu=True.")


def check_whole_checkpoints(args: TrainingArguments) -> None:
    """Refuse FSDP that saves a part per process: a run's checkpoints and model must be such as one process
    opens.

    Args:
        args: What a `Trainer` is to be made with; where they say nothing of FSDP, `accelerate launch` may
            have.

    Raises:
        ConfigError: If FSDP is asked for with state dicts of another kind than full ones.
    """
    asked = getattr(args, "fsdp_plugin_args", None)
    if asked is None and os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return
    from accelerate import FullyShardedDataParallelPlugin

    kind = FullyShardedDataParallelPlugin(**asked or {}).state_dict_type.name
    if kind != "FULL_STATE_DICT":
        rule = "a run keeps checkpoints that one process opens, and these would be a part per process"
        hint = (
            "Set FULL_STATE_DICT, in the accelerate file or in "
            "training.arguments.fsdp_config.state_dict_type."
        )
        raise ConfigError("fsdp_state_dict_type", kind, rule, hint)


def from_main(value: T) -> T:
    """Return what the main process has, in all; every process must call it."""
    if count_processes() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box)
    return box[0]


def on_main(work: Callable[[], T]) -> T:
    """Let the main process do something, once, and return its result in all;
    its errors are raised in all too.

    >>> on_main(lambda: 6 * 7)
    42
    """
    result = error = None
    if is_main():
        try:
            result = work()
        except HfIclError as raised:
            error = raised
    result, error = from_main((result, error))
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def held_by_main(manager: contextlib.AbstractContextManager) -> Iterator[None]:
    """Let the main process enter a context for all of them; its errors on entering are raised in all."""
    with contextlib.ExitStack() as stack:
        on_main(lambda: stack.enter_context(manager) and None)
        yield


def wait_for_all() -> None:
    """Return once every process has come this far."""
    if count_processes() > 1:
        dist.barrier()


def map_spread(work: Callable[[int], T], n_jobs: int) -> list[T]:
    """Return `[work(0), …, work(n_jobs − 1)]` in every process, the jobs dealt out to all.

    All do equally many, because under FSDP a forward pass takes every process: those left over do the last
    job again and drop it.

    >>> map_spread(lambda job: job * job, 4)
    [0, 1, 4, 9]
    """
    n_processes = count_processes()
    if n_processes == 1:
        return [work(job) for job in range(n_jobs)]
    rounds = range(dist.get_rank(), n_jobs + dist.get_rank(), n_processes)
    own = [work(min(job, n_jobs - 1)) for job in rounds]
    gathered: list[list[T]] = [[] for _ in range(n_processes)]
    dist.all_gather_object(gathered, own)
    return [gathered[job % n_processes][job // n_processes] for job in range(n_jobs)]


@contextlib.contextmanager
def explain_loss(way_on: str) -> Iterator[None]:
    """Say in one sentence what gloo, NCCL and the launcher's SIGTERM mean:
    another process of the run has ended.

    Args:
        way_on: What to do about it.

    Raises:
        LostProcessError: In place of their errors.
    """
    if count_processes() == 1:
        yield
        return
    takes_signals = threading.current_thread() is threading.main_thread()  # no other thread may

    def told_to_stop(*_) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # said once; the launcher waits for us to end
        raise LostProcessError(sentence)

    sentence = f"A process of this run has ended, or the launcher has stopped it. {way_on}"
    before = signal.signal(signal.SIGTERM, told_to_stop) if takes_signals else None
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _from_backend(error):
            raise
        before = signal.SIG_IGN
        raise LostProcessError(sentence) from error
    finally:
        if takes_signals:
            signal.signal(signal.SIGTERM, before)


def _from_backend(error: RuntimeError) -> bool:
    return any(name in str(error).lower() for name in ("gloo", "nccl", "connection closed by peer"))
