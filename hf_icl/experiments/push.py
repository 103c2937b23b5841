"""Puts what came of claims on the Hub, as a Space: page, numbers, figures, and what was fixed when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, SpaceCard

from hf_icl.errors import RunError
from hf_icl.experiments.evidence import EVIDENCE_FILE
from hf_icl.experiments.words import tabulate
from hf_icl.experiments.write import CLAIMS_FILE, FIGURES, PAGE
from hf_icl.hub.remote import Remote
from hf_icl.hub.repos import commit_files, prepare_repo
from hf_icl.reading import read_json

CARD, SDK = "README.md", "static"


def push_claims(folder: str | Path, space: str, *, public: bool = False, api: HfApi | None = None) -> bool:
    """Put the page of judged claims, `claims.json`, figures and `evidence.json` into a static Space.

    Runs stay where they are: each can be pushed as a run. The same again makes no commit, and figures of
    claims that were judged no more are taken away.

    Args:
        folder: Where `reproduce` wrote them.
        space: As user/name.
        public: Whether everyone shall see it.
        api: The Hub's client.

    Returns:
        Whether there was anything new.

    Raises:
        RunError: If nothing was judged in the folder.
        ConfigError: If the Space is there with another visibility than asked for.
        HubError: If the Hub cannot be asked, refuses, or does not show afterwards what was sent.
    """
    files, remote = list_files(Path(folder)), Remote(space, "space", api=api)
    prepare_repo(remote, public=public, space_sdk=SDK)
    return commit_files(remote, files, message="Claims, and what came of them", whole=f"{FIGURES}/")


def list_files(folder: Path) -> dict[str, Path | bytes]:
    """Return path in the Space to file or content.

    Raises:
        RunError: If nothing was judged in the folder.
    """
    paths = [folder / name for name in (PAGE, CLAIMS_FILE, EVIDENCE_FILE)]
    if missing := [path.name for path in paths if not path.exists()]:
        way_out = f"First: hf-icl reproduce --output {folder}"
        raise RunError(f"{folder}: no {missing[0]}, so no claims were judged there. {way_out}")
    paths += sorted((folder / FIGURES).glob("*.png"))
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    return files | {CARD: write_card(read_json(folder / CLAIMS_FILE)).encode()}


def write_card(document: Mapping[str, Any]) -> str:
    """Return the Space's card, a table of what `claims.json` says."""
    head = {"title": "Claims, and what came of them", "sdk": SDK, "tags": ["hf-icl", "transience"]}
    told = f"Claims about in-context learning at scale {document['scale']}, judged by hf_icl:"
    return str(
        SpaceCard(
            "\n".join(["---", json.dumps(head, indent=1), "---", "", told, "", *tabulate(document), ""])
        )
    )
