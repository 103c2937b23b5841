"""Makes `datasets.load_dataset("hf_icl", …)` work: the one module that touches names private to `datasets`.

`datasets` has no way to add a builder from a package (loading scripts are gone from 4.0 on), but keeps the builders
it comes with in a table by name. An entry there is enough, but for one thing: the builders of the table read data
files, and without any the current folder is searched. Ours reads none, so its list of files is set to be empty.
"""

from __future__ import annotations

import functools
from importlib import import_module

import datasets

from hf_icl.data.sources import BUILDER_MODULE, NAME, fingerprint_sources

NO_FILES = {"train": []}


def register() -> None:
    """Let `datasets` know the name "hf_icl"; a second call changes nothing.

    Raises:
        ImportError: If this version of `datasets` keeps its table of builders elsewhere.

    >>> register()
    >>> datasets.get_dataset_config_names("hf_icl")
    ['gaussian', 'symbolic', 'omniglot', 'features', 'vocabulary']
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
            f"datasets {datasets.__version__} keeps its table of builders elsewhere ({error}), so "
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
