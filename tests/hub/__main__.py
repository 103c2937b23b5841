"""Run the loopback Hub: `python -m tests.hub FOLDER [PORT]`; prints its addresses and tokens as JSON,
then serves.

It ends with the process that started it, so that a killed test run leaves none behind.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from . import admin, files, pushing, repos  # noqa: F401  they register their routes
from .routes import answer
from .server import USERS, Hub


def end_with(parent: int) -> None:
    """End this process when another process is its parent: the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    hub = Hub(Path(sys.argv[1]), answer, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    tokens = {f"{user.name}/{user.role}": user.token for user in USERS}
    print(json.dumps({"endpoint": hub.endpoint, "storage": hub.storage, "tokens": tokens}), flush=True)
    hub.serve()
