"""Which room may import which: data flows to the right only (docs/architecture.md)."""

import ast
import graphlib
import re

import pytest

from tests.rooms import PACKAGE, Import, list_imports, list_modules, room_of

# A room imports only rooms that stand further left; those of one step do not know each other.
ORDER = (
    {"wording"},
    {"errors", "reading"},
    {"config", "files", "lazy", "local", "philox", "distributed", "memory"},
    {"locks"},
    {"banks", "history"},
    {"sequences"},
    {"task"},
    {"summary"},
    {"models", "report", "theory"},
    {"circuits"},
    {"training"},
    {"runs"},
    {"hub", "plan"},
    {"sweeps"},
    {"data", "experiments", "traces"},
    {"metrics"},
    {"cli"},
)
STEP = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
# What stands outside: the package itself, which hands on names, its entry point, and the address of metrics
# pushed by 0.1.0.
OUTSIDE = {"hf_icl", "__main__", "scoring"}
PURE = (
    "hf_icl.sequences",
    "hf_icl.task.scoring",
    "hf_icl.task.evaluators",
    "hf_icl.summary",
    "hf_icl.circuits.heads",
    "hf_icl.theory",
)
OPTIONAL_OR_SLOW = {"peft", "ray", "sklearn", "scipy", "accelerate", "IPython"}
SHELLS = ("cli", "__main__")  # start soon, and take Ctrl-C before anything else is imported


def tell(one: Import) -> str:
    return f"{one.origin}, line {one.line}, imports {one.target}"


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in list_modules()}
    assert rooms - OUTSIDE == set(STEP)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= OUTSIDE | STEP.keys()


def test_a_room_imports_only_rooms_to_its_left():
    wrong = [
        tell(one)
        for one in list_imports()
        if one.target.startswith("hf_icl.") and room_of(one.origin) not in OUTSIDE
        for origin, target in [(room_of(one.origin), room_of(one.target))]
        if origin != target and STEP[target] >= STEP[origin]
    ]
    assert wrong == []


def test_no_module_needs_itself():
    graph = {module: set() for module in list_modules()}
    for one in list_imports():
        if one.target.startswith("hf_icl"):
            graph[one.origin].add(one.target)
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the modules


def test_functions_import_only_what_is_optional_or_slow():
    """The command line starts soon, so each command imports what it needs;
    elsewhere imports stand at the top."""
    wrong = [
        tell(one)
        for one in list_imports()
        if one.inside is not None and room_of(one.origin) not in SHELLS and one.target not in OPTIONAL_OR_SLOW
    ]
    assert wrong == []


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_no_trainer_no_hub_and_no_terminal(room):
    wrong = [
        tell(one)
        for one in list_imports()
        if one.origin.startswith(room)
        and one.target
        in {"transformers", "huggingface_hub", "datasets", "accelerate", "rich", "typer", "pathlib", "os"}
    ]
    assert wrong == []


def test_what_others_may_have_written_is_read_in_one_place():
    """`hf_icl.reading` bounds size and depth; lines and metadata whose sums were checked need no more."""
    checked = {"reading.py", "history/columns.py", "banks/vocabulary.py", "data/builder.py"}
    reads = re.compile(r"json\.loads?\(|yaml\.(safe_)?load\(")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if reads.search(path.read_text("utf-8"))
    }
    assert found == checked


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda stub: stub.parent.name)
def test_no_room_hands_on_a_name_that_one_of_its_modules_has(stub):
    """Once such a module is imported, its package's attribute of that name is the module."""
    imports = [node for node in ast.parse(stub.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert not names & {path.stem for path in stub.parent.iterdir()}


def test_the_order_in_the_docs_is_this_one():
    text = (PACKAGE.parent / "docs/architecture.md").read_text("utf-8")
    (told,) = re.findall(r"`(wording < .*?)`", text, re.DOTALL)
    assert [set(re.split(r",\s*", step.strip())) for step in told.split("<")] == [
        set(rooms) for rooms in ORDER
    ]
