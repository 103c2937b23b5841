"""A Hugging Face Hub on the loopback, for tests with the real `huggingface_hub` client.

It is an HTTP server in a process of its own that speaks the Hub's API over sockets: models, datasets and
Spaces, regular and LFS files, branches, tags, commits with parents, trees, ranges, tokens, private and gated
repositories. Nothing of the client is patched: `HF_ENDPOINT` points a process at the server, which is why
tests run their client code in processes of their own (the variable is read at import).

    def test_push(hub):                              # the fixture of conftest.py
        hub.fault("/commit/", method="POST", status=503)
        error = hub.run('''
            from huggingface_hub import HfApi
            api = HfApi()
            api.create_repo("ann/model")
            try:
                api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="ann/model")
            except Exception as error:
                result = type(error).__name__
        ''')
        assert error == "HfHubHTTPError"
        assert "a.txt" not in hub.repo("model ann/model").files

A shell can use it as well: `python -m tests.hub FOLDER` prints addresses and tokens as JSON and serves until
Ctrl-C; then `HF_ENDPOINT=… HF_TOKEN=… HF_HUB_DISABLE_XET=1 hf upload …`.

Users: `ann` (tokens `ann/write` and `ann/read`, in the organization `lab`) and `bob` (`bob/write`).

| file | what it holds |
|---|---|
| `objects.py`, `store.py` | repositories: bare git repositories in a folder, which `git log` can read; LFS
objects | | `commits.py`, `cards.py` | how a commit's NDJSON and a card's YAML are read and checked; which
files must be large | | `server.py` | sockets: two addresses (Hub, storage of large files), requests, answers,
the log | | `routes.py` | who may do what; how a request finds its route |
| `repos.py`, `files.py`, `pushing.py` | the routes: repositories and refs; trees and bytes; pushing |
| `faults.py` | what it can be told to do wrong, and the throttle |
| `admin.py`, `client.py`, `__main__.py` | what tests ask of the server; how they hold it; the process |

What it checks, because the Hub does: tokens and their roles, names, paths, NDJSON line by line, base64, YAML
headers, SHA-256 and size of LFS content, LFS objects behind pointers, parents of commits, a token sent to the
storage (refused). The state is on disk: `stop()` kills the server, `start()` brings it back at the same
address with all that was committed.

Where it departs from the real Hub:

- A repository that is missing, asked for without a token: 401 as there, but with `X-Error-Code:
  RepoNotFound`. The client
  reads the bare 401 as a missing repository only if the address begins with https.
- Xet is not spoken, so the client needs `HF_HUB_DISABLE_XET=1`; with Xet, `upload_folder` may make several
  commits.
- No pull requests, discussions, squashing, moving, secrets, running Spaces, Parquet conversion; those
  addresses say 404.
- Which files must be large: by `.gitattributes` (a shorter list than the real one), above 10 MiB, or with a
  zero byte in
  the first 512. The real Hub's test for binary content is not published. A `.gitignore` is read for plain
  patterns.
- Card rules: the published ones for license, model-index, tags and configs; the real ones are more and can
  change.
- 412 for a head that has moved, 403 for a full quota and 401, 403, 404, 409 elsewhere are what clients report
  of the real
  Hub; the sentences beside them are not its own.
"""
