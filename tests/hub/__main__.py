"""Run the loopback Hub: `python -m tests.hub FOLDER [PORT]`; prints its addresses and tokens as JSON, then serves."""

import json
import sys
from pathlib import Path

from . import admin, files, pushing, repos  # noqa: F401  they register their routes
from .routes import answer
from .server import USERS, Hub

if __name__ == "__main__":
    hub = Hub(Path(sys.argv[1]), answer, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    tokens = {f"{user.name}/{user.role}": user.token for user in USERS}
    print(json.dumps({"endpoint": hub.endpoint, "storage": hub.storage, "tokens": tokens}), flush=True)
    hub.serve()
