"""The documentation does what it says: tutorials and notebooks run as they stand, but for smaller numbers."""

import json
import re
import warnings

import pytest

from docs import hooks
from hf_icl.history.history import History
from hf_icl.summary.measures import MEASURES
from hf_icl.task.evaluators import EVALUATORS
from tests.programs import ROOT, environment

TUTORIALS = ROOT / "docs" / "tutorials"
SMALLER = {  # numbers of a tutorial, to those that a test has the time for
    "stock-trainer": {
        "n_eval_sequences=500": "n_eval_sequences=40",
        "steps, batch_size = 400, 64": "steps, batch_size = 8, 8",
    },
    "own-data": {
        "n_eval_sequences=200": "n_eval_sequences=40",
        "steps = 300": "steps = 8",
        "n_sequences=500": "n_sequences=50",
        "per_device_train_batch_size=64": "per_device_train_batch_size=8",
    },
    "language-model": {
        '"n_classes": 200': '"n_classes": 60',
        '"n_holdout_classes": 20': '"n_holdout_classes": 6',
        "steps = 2000": "steps = 4",
        "n_eval_sequences=200": "n_eval_sequences=20",
        "per_device_train_batch_size=32": "per_device_train_batch_size=8",
    },
}
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read_code(text):
    """Return the Python blocks of a page, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.integration
@pytest.mark.usefixtures("_blank_figures")
@pytest.mark.parametrize("name", [path.stem for path in sorted(TUTORIALS.glob("*.md"))])
def test_a_tutorial_runs(name, tmp_path, monkeypatch, request):
    code = read_code((TUTORIALS / f"{name}.md").read_text())
    smaller = dict(SMALLER[name])
    if "MODEL = " in code:
        smaller['"EleutherAI/pythia-70m"'] = repr(str(request.getfixturevalue("pretrained")))
    for words, fewer in smaller.items():
        assert words in code, f"{name}.md no longer says {words}"
        code = code.replace(words, fewer)
    monkeypatch.chdir(tmp_path)
    made = {"__name__": "tutorial"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of other libraries; a tutorial is no test of theirs
        exec(compile(code, f"{name}.md", "exec"), made)
    (history,) = (tmp_path / "runs").glob("*/history.jsonl")
    rows = History(history).rows
    assert rows[0]["step"] == 0 and rows[-1]["step"] == made["steps"]
    assert (history.parent / "report" / "index.html").stat().st_size > 10_000


def test_pages_hold_what_the_registries_know():
    page = hooks.on_page_markdown((ROOT / "docs" / "measures.md").read_text())
    assert "{{" not in page
    assert [name for name in EVALUATORS if f"| `{name}` |" not in page] == []
    assert [name for name, one in MEASURES.items() if f"### {one.title}\n" not in page] == []


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) == pages


def test_the_reference_holds_everything_at_the_top():
    """Each name of `from hf_icl import …`, where it is defined."""
    import hf_icl

    told = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), flags=re.MULTILINE))
    made = {getattr(hf_icl, name) for name in hf_icl.__all__ if name != "__version__"}
    assert {f"{one.__module__}.{one.__qualname__}" for one in made} <= told


def test_the_readme_fits_on_a_screen():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 90 and sum(line.startswith("![") for line in lines) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebooks_are_kept_without_output(path):
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In a kernel of its own, as Jupyter does."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for name, value in environment(PYTHONPATH=str(ROOT)).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        fewer = cell.source.replace("steps = 400\n", "steps = 20\n")
        cell.source = fewer.replace("schedule=50", "schedule=10")
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = {kind for output in outputs for kind in output.get("data", ())}
    assert "image/png" in shown and "text/plain" in shown
    assert "error" not in {output.output_type for output in outputs}
