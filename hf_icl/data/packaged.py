"""Makes `datasets.load_dataset("hf_icl", …)` work: the one module that touches names private to `datasets`.

`datasets` has no way to add a builder from a package (loading scripts are gone from 4.0 on), but keeps the
builders it comes with in a table by name. An entry there is enough, but for one thing: the builders of the
table read data files, and without any the current folder is searched. Ours reads none, so its list of files
is set to be empty.

`import hf_icl` runs this, so nothing slow is imported here: `datasets` is waited for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
import warnings
from importlib import import_module, metadata
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

NAME = "hf_icl"
BUILDER_MODULE = "hf_icl.data.builder"
NO_FILES = {"train": []}
PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = (
    "wording.py", "errors.py", "reading.py", "config.py", "distributed.py", "files.py", "lazy.py",
    "local.py", "memory.py", "philox.py", "banks/*.py", "sequences/*.py", "task/*.py", "data/*.py",
)  # fmt: skip  # models and reports are downstream of the rows


def register_soon() -> None:
    """Let `datasets` know the name "hf_icl": at once if it is loaded already, else as soon as it is."""
    if "datasets" in sys.modules:
        _register_or_warn()
    else:
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds nothing itself, but notices that `datasets` is being imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "datasets":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                del loader.exec_module
                execute(module)
                _register_or_warn()

            loader.exec_module = execute_and_register
        return spec


def _register_or_warn() -> None:
    try:
        register()
    except ImportError as error:  # `datasets` itself must not fail for our sake
        warnings.warn(str(error), stacklevel=2)


def register() -> None:
    """Let `datasets` know the name "hf_icl"; a second call changes nothing.

    Raises:
        ImportError: If this version of `datasets` keeps its table of builders elsewhere.

    >>> register()
    >>> import datasets
    >>> datasets.get_dataset_config_names("hf_icl")
    ['gaussian', 'symbolic', 'omniglot', 'features', 'vocabulary', 'texts']
    """
    table, factory = find_registry()
    table[NAME] = (BUILDER_MODULE, fingerprint_sources())
    if not hasattr(factory.get_module, "hf_icl"):
        factory.get_module = _without_files(factory.get_module)


def find_registry() -> tuple[dict, type]:
    """Return the table of builders, and the class that looks a name up in it."""
    try:
        table = import_module("datasets.packaged_modules")._PACKAGED_DATASETS_MODULES
        factory = import_module("datasets.load").PackagedDatasetModuleFactory
        factory.get_module  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"datasets {metadata.version('datasets')} keeps its table of builders elsewhere ({error}), so "
            f'datasets.load_dataset("{NAME}") cannot work. Use hf_icl.load_dataset with the same arguments, '
            "or another version of datasets."
        ) from error
    return table, factory


def _without_files(get_module):
    @functools.wraps(get_module)
    def get_module_without_files(self):
        if self.name == NAME:
            self.data_files, self.data_dir = NO_FILES, None
        return get_module(self)

    get_module_without_files.hf_icl = True
    return get_module_without_files


def fingerprint_sources(package: Path = PACKAGE) -> str:
    """Hash the source files that can shape rows, so that no cache outlives the code that wrote it.

    >>> len(fingerprint_sources())
    32
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
