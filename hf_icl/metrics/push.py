"""Puts a metric on the Hub, as the Space that `evaluate.load("user/name")` reads."""

from __future__ import annotations

import html
import importlib
from pathlib import Path

import yaml
from huggingface_hub import HfApi

import hf_icl
from hf_icl.hub.remote import Remote
from hf_icl.hub.repos import commit_files, prepare_repo
from hf_icl.metrics import METRICS, find_metric

# The widget that `evaluate` has for Spaces calls what gradio dropped in version 4, so the Space is a static
# page.
SDK = "static"
FIND = "    >>> from hf_icl.metrics import find_metric\n"
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 46rem; margin: 2rem auto }}
pre {{ white-space: pre-wrap }}</style></head>
<body><h1>{title}</h1><pre>{text}</pre></body>
</html>
"""
CARD = """---
{header}---

# {title}

{description}

```python
import evaluate

metric = evaluate.load("{repo_id}")
```

It needs `hf-icl`, where its numbers are defined: `pip install hf-icl`.

```text
{inputs}
```
"""


def push_metric(repo_id: str, *, public: bool = False, api: HfApi | None = None) -> bool:
    """Make or update the Space of a metric. The same metric again makes no second commit.

    Args:
        repo_id: As user/name; the name is that of a metric, because `evaluate` looks for a file called after
            the Space.
        public: Whether everyone shall see it; `describe_visibility` says it in a sentence.
        api: The Hub's client.

    Returns:
        Whether there was anything new.

    Raises:
        ConfigError: If there is no such metric, or the Space is there with another visibility than asked for.
        HubError: If the Hub cannot be asked, refuses, or does not show afterwards what was sent.
    """
    files = render_space(repo_id)
    remote = Remote(repo_id, "space", api=api)
    prepare_repo(remote, public=public, space_sdk=SDK)
    message = f"{repo_id.rpartition('/')[2]} of hf_icl {hf_icl.__version__}"
    return commit_files(remote, files, message=message)


def render_space(repo_id: str) -> dict[str, bytes]:
    """Return the files of a metric's Space: the module, what it needs, the card and a page.

    >>> sorted(render_space("me/flip_share"))
    ['README.md', 'flip_share.py', 'index.html', 'requirements.txt']
    """
    name = repo_id.rpartition("/")[2]
    module = Path(find_metric(name))
    texts = importlib.import_module(f"hf_icl.metrics.{name}")
    header = {
        "title": name.replace("_", " ").capitalize(),
        "sdk": SDK,
        "pinned": False,
        "license": "apache-2.0",
        "tags": ["evaluate", "metric", "hf-icl", "in-context-learning"],
        "description": METRICS[name],
    }
    description, inputs = texts.DESCRIPTION.strip(), texts.USAGE.strip()
    card = CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=header["title"],
        description=description,
        repo_id=repo_id,
        inputs=inputs.replace(f'find_metric("{name}")', f'"{repo_id}"').replace(FIND, ""),
    )
    page = PAGE.format(
        title=html.escape(header["title"]), text=html.escape(card.split("---\n", 2)[2].strip())
    )
    return {
        f"{name}.py": module.read_bytes(),
        "requirements.txt": f"hf-icl>={hf_icl.__version__}\n".encode(),
        "README.md": card.encode(),
        "index.html": page.encode(),
    }
