"""Every setting of every config has bounds, and whatever stands in its place is taken or refused by name:
no traceback, nothing left behind, no more memory than there is."""

import importlib
import itertools
import math
import random
import typing
from types import UnionType

import annotated_types
import pytest

from hf_icl import memory
from hf_icl.config import Config, flatten
from hf_icl.errors import ConfigError, HfIclError
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.training.config import TrainingConfig
from hf_icl.wording import MOST_CHARACTERS
from tests.programs import TINY
from tests.rooms import list_modules

VALUES = [
    "yes", "no", "null", "0", "-1", "1", "2", "17", "4294967296", "16777216", "9223372036854775808",
    "1e400", "-.inf", ".nan", "1e-320", "1e30", "0.5", "1.5", "'1'", "''", "x", "'\\0'", "010", "1:30", "[]",
    "[yes]", "[1, 2]", "[[[]]]", "[{}]", "{}", "{a: 1}", "!!python/object:os.system x", "&a [*a]",
]  # fmt: skip
WHOLES = ["task", "task.train", "task.bank", "model", "training", "evaluate", "evaluate.every",
          "evaluate.per_decade", "evaluate.steps", "model.backbone", "model.lora", "model.lora.rank",
          "task.extra_evaluators", "training.regularization.groups"]  # fmt: skip
BACKBONE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}
WRONG_ANYWHERE = ["1e400", "-.inf", ".nan", "'\\0'", "!!python/object:os.system x", "[[[]]]"]


def list_configs():
    for module in list_modules():
        if "__main__" not in module:
            importlib.import_module(module)
    waiting = [Config]
    for kind in waiting:
        waiting += kind.__subclasses__()
    return sorted(
        {kind for kind in waiting[1:] if kind.__module__.startswith("hf_icl.")},
        key=lambda kind: kind.__name__,
    )


def list_numbers(annotation, rules=()):
    """Yield the rules of every number that an annotation allows, at whatever depth."""
    if annotation in (int, float):
        yield [rule for each in rules for rule in getattr(each, "metadata", [each])]
    elif typing.get_origin(annotation) is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        yield from list_numbers(inner, more)
    elif typing.get_origin(annotation) in (typing.Union, UnionType):
        for part in typing.get_args(annotation):
            yield from list_numbers(part, rules)
    elif typing.get_origin(annotation) in (tuple, list):
        for part in typing.get_args(annotation):
            yield from list_numbers(part)


def test_every_number_of_every_config_lies_between_bounds():
    lower, upper = (annotated_types.Ge, annotated_types.Gt), (annotated_types.Le, annotated_types.Lt)
    unbounded, n_numbers = [], 0
    for config in list_configs():
        for name, field in config.model_fields.items():
            for rules in list_numbers(field.annotation, field.metadata):
                n_numbers += 1
                if not all(any(isinstance(rule, side) for rule in rules) for side in (lower, upper)):
                    unbounded.append(f"{config.__name__}.{name}")
    assert unbounded == [] and n_numbers > 60


def try_words(folder, *words: str) -> str | None:
    """Make a run; return the refusal, None if it was made. Whatever else is raised fails the test."""
    try:
        Run.create(load_config("default", [*TINY, *words]), folder / "run")
    except HfIclError as error:
        assert list(folder.iterdir()) == [], words
        assert len(str(error)) <= MOST_CHARACTERS + 9, words
        return str(error)
    return None


def list_cases():
    keys = [*flatten(load_config("default", TINY).to_dict()), *WHOLES]
    return list(itertools.product(sorted(set(keys)), VALUES))


def try_cases(cases, tmp_path) -> int:
    n_refused = 0
    for number, (key, value) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        refused = try_words(folder, f"{key}={value}")
        n_refused += refused is not None
        assert refused is not None or value not in WRONG_ANYWHERE, (key, value)
    return n_refused


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "count_free_bytes", lambda: 200_000_000)


@pytest.mark.usefixtures("little_memory")
def test_some_settings_of_any_value_are_taken_or_refused_by_name(tmp_path):
    cases = random.Random(0).sample(list_cases(), 80)
    assert try_cases(cases, tmp_path) > 40


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
def test_all_settings_of_any_value_are_taken_or_refused_by_name(tmp_path):
    cases = list_cases()
    n_refused = try_cases(cases, tmp_path)
    print(
        f"tried {len(cases):,}, refused {n_refused:,}, made {len(cases) - n_refused:,}, tracebacks 0, left 0"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.train=[]"], "task.train"),
        (["task.evaluators=[]"], "task.evaluators = []: something must be asked"),
        (["training.regularization={kind: l2, strength: 1, groups: []}"], "training.regularization.groups"),
        (["evaluate={steps: [1, yes]}"], "evaluate.steps.1 = True: must be a number"),
        (["evaluate={steps: ['3']}"], "evaluate.steps.0 = '3': must be a number"),
        (["seed=4294967296"], "seed = 4294967296"),
        (["seed=010"], "seed = '010': must be a number"),
        (["training.batch_size=1:30"], "training.batch_size = '1:30': must be a number"),
        (["task.bank.n_classes=16000000"], "task.bank.n_classes = 16000000: a bank of 16,000,004 classes"),
        (["task.n_eval_sequences=16000000"], "task.n_eval_sequences = 16000000: "),
        (["model.d_model=131072"], "model.d_model = 131072: training "),
        (["training.arguments={logging_steps: '5'}"], "training.arguments.logging_steps = '5'"),
        (["training.arguments={gradient_accumulation_steps: 0}"], "gradient_accumulation_steps = 0"),
        (["training.arguments={adam_epsilon: -1.0}"], "training.arguments"),
        (["training.arguments={optim: sgdd}"], "training.arguments"),
        (["training.arguments={a: {b: .nan}}"], "training.arguments.a.b = nan: must be a finite number"),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_what_was_once_taken_wrongly_is_refused_by_name(tmp_path, words, said):
    assert said in try_words(tmp_path, *words)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("little_memory")
def test_a_backbone_is_built_before_anything_is_written(tmp_path, seed):
    """Fields of a transformers config, each of a drawn value: built, or refused as the backbone."""
    rng = random.Random(seed)
    odd = [-1, 0, 3, 10**6, 0.5, "x", True, None, [], {"a": 1}]
    fields = ["n_layer", "n_embd", "n_head", "n_positions", "activation_function", "layer_norm_epsilon",
              "initializer_range", "model_type", "resid_pdrop", "pad_token_id"]  # fmt: skip
    for number in range(12):
        backbone = BACKBONE | {rng.choice(fields): rng.choice(odd)}
        folder = tmp_path / str(number)
        folder.mkdir()
        words = f"model.backbone={backbone}".replace("True", "true").replace("None", "null")
        refused = try_words(folder, words)
        assert refused is None or "backbone" in refused or "d_model" in refused, (backbone, refused)


@pytest.mark.parametrize("seed", range(3))
def test_arguments_of_another_type_are_refused_by_name(seed):
    rng = random.Random(seed)
    for name in ("logging_steps", "max_grad_norm", "bf16", "adam_epsilon", "dataloader_num_workers"):
        value = rng.choice(["x", [1], {"a": 1}, math.nan, 2**70, "1"])
        with pytest.raises(ConfigError, match=name):
            TrainingConfig(arguments={name: value})
