"""`hf-icl`, killed with signal 9 at its n-th event: a file opened to be written, renamed, removed, or written
by torch or safetensors; a folder made; bytes sent to the Hub, or awaited.

What was being written then is torn: cut somewhere, as by a kill in the middle of it.

    python -m tests.killing NUMBER FOLDER WORDS…      0: count; the number stands on the last line of stderr
"""

import os
import random
import signal
import socket
import sys
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.chmod")


class Killer:
    """Counts events under a folder, and kills this process before the one that is due.

    Args:
        number: Which; 0: none.
        folder: Whose files count.
    """

    def __init__(self, number: int, folder: Path):
        self.number, self.folder, self.seen = number, str(folder), 0
        self.torn: tuple[str, int] | None = None  # what is being written, and its size before
        self.chance = random.Random(number)

    def watch(self) -> None:
        """Begin."""
        import safetensors.torch
        import torch
        import transformers.modeling_utils

        sys.addaudithook(self.hear)
        send, receive, save, tensors = (
            socket.socket.send, socket.socket.recv, torch.save, safetensors.torch.save_file
        )  # fmt: skip

        def send_part(connection: socket.socket, data: bytes, *flags: int) -> int:
            if self.seen + 1 == self.number:
                send(connection, data[: self.chance.randrange(len(data) + 1)], *flags)
            self.tick()
            return send(connection, data, *flags)

        def receive_part(connection: socket.socket, *most: int) -> bytes:
            self.tick()
            return receive(connection, *most)

        def save_torn(value: object, path: object, *more: object, **named: object) -> None:
            save(value, path, *more, **named)
            self.written(path)

        def save_tensors_torn(value: object, path: object, *more: object, **named: object) -> None:
            tensors(value, path, *more, **named)
            self.written(path)

        socket.socket.send, socket.socket.recv, torch.save = send_part, receive_part, save_torn
        safetensors.torch.save_file = transformers.modeling_utils.safe_save_file = save_tensors_torn

    def hear(self, event: str, words: tuple) -> None:
        """Take note of what Python is about to do."""
        if event == "open" and isinstance(words[0], str | bytes) and words[2] & (os.O_WRONLY | os.O_RDWR):
            path = os.path.abspath(os.fsdecode(words[0]))
            if self.is_meant(path):
                self.tick()
                self.torn = (path, os.path.getsize(path) if os.path.exists(path) else 0)
        elif event in CHANGES and any(self.is_meant(word) for word in words if isinstance(word, str | bytes)):
            self.tick()

    def written(self, path: object) -> None:
        """Take note of a file that something else than Python has just written."""
        if isinstance(path, str | os.PathLike) and self.is_meant(os.fspath(path)):
            self.torn = (os.path.abspath(path), 0)
            self.tick()

    def is_meant(self, path: str | bytes) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def tick(self) -> None:
        """Count an event; be killed if it is the one."""
        self.seen += 1
        if self.seen == self.number:
            self.tear()
            os.kill(os.getpid(), signal.SIGKILL)
        self.torn = None

    def tear(self) -> None:
        if self.torn is not None and os.path.isfile(self.torn[0]):
            path, before = self.torn
            os.truncate(path, before + self.chance.randint(0, max(0, os.path.getsize(path) - before)))


def main(number: str, folder: str, *words: str) -> None:
    from hf_icl.cli.main import main as run

    if python := os.environ.get("HF_ICL_TEST_PYTHON"):  # workers of a sweep start within milliseconds too
        sys.executable = python
    killer = Killer(int(number), Path(folder))
    sys.argv = ["hf-icl", *words]
    killer.watch()
    try:
        run()
    finally:
        sys.stderr.write(f"\n{killer.seen}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
