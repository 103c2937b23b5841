"""Print the lowest versions that a setup.cfg declares, as exact pins: `python tests/floors.py setup.cfg`."""

import configparser
import re
import sys


def read_floors(path: str) -> list[str]:
    """Return `name==version` for every `name>=version` in the requirements of a setup.cfg."""
    config = configparser.ConfigParser()
    config.read(path)
    blocks = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    floors = re.findall(r"^([\w.-]+)>=([\w.]+)", "\n".join(blocks), flags=re.MULTILINE)
    return sorted(f"{name}=={version}" for name, version in floors)


if __name__ == "__main__":
    sys.stdout.write("\n".join(read_floors(sys.argv[1])) + "\n")
