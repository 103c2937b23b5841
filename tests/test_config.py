"""Configs: layers, and errors that name field, value, rule and way out."""

from typing import Annotated, Literal

import pydantic
import pytest

from hf_icl.config import Config, merge, parse_overrides
from hf_icl.errors import ConfigError


class Red(Config):
    kind: Literal["red"] = "red"
    shade: int = pydantic.Field(1, ge=0, le=9)


class Blue(Config):
    kind: Literal["blue"] = "blue"
    depth: float = 0.5


class Item(Config):
    size: int = pydantic.Field(2, ge=1)
    part: int = 1

    @pydantic.model_validator(mode="after")
    def _check(self):
        if self.part > self.size:
            raise ConfigError("part", self.part, f"must not exceed size = {self.size}", "Lower it.")
        return self


class Whole(Config):
    colour: Annotated[Red | Blue, pydantic.Field(discriminator="kind")] = Red()
    items: Item | tuple[Item, ...] = Item()
    named: dict[str, Item] = {}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"colour": {"kind": "red", "shade": 10}}, "colour.shade = 10: should be less than or equal to 9."),
        ({"colour": {"kind": "red", "shad": 1}}, "colour.shad = 1: unknown key. Did you mean shade?"),
        ({"colour": {"kind": "green"}}, "colour"),
        ({"items": {"size": 0}}, "items.size = 0: should be greater than or equal to 1."),
        (
            {"items": [{"size": 3}, {"size": 2, "part": 3}]},
            "items.1.part = 3: must not exceed size = 2. Lower it.",
        ),
        ({"items": {"part": 3}}, "items.part = 3: must not exceed size = 2. Lower it."),
        ({"named": {"a": {"sise": 3}}}, "named.a.sise = 3: unknown key. Did you mean size?"),
        ({"colours": 1}, "colours = 1: unknown key. Did you mean colour?"),
        ({"items": {"size": "big"}}, "items.size = 'big': must be a number"),
        ({"items": {"size": float("nan")}}, "items.size"),
    ],
)
def test_errors_name_field_value_rule_and_way_out(values, text):
    with pytest.raises(ConfigError) as error:
        Whole(**values)
    assert str(error.value).startswith(text), str(error.value)


def test_a_config_survives_its_own_plain_form():
    whole = Whole(colour={"kind": "blue", "depth": 2}, items=[{"size": 3}])
    assert Whole(**whole.to_dict()) == whole


def test_a_replaced_field_is_checked_again():
    with pytest.raises(ConfigError):
        Item(size=2).replace(part=5)


def test_configs_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError):
        Item().size = 3


def test_another_kind_replaces_the_one_below():
    base = {"bank": {"kind": "gaussian", "eps": 1.2}}
    assert merge(base, {"bank": {"kind": "omniglot"}}) == {"bank": {"kind": "omniglot"}}
    assert merge(base, {"bank": {"eps": 2}}) == {"bank": {"kind": "gaussian", "eps": 2}}


@pytest.mark.parametrize(
    ("word", "tree"),
    [
        ("a.b=1e-3", {"a": {"b": 1e-3}}),
        ("a=true", {"a": True}),
        ("a=", {"a": None}),
        ("a=x=y", {"a": "x=y"}),
        ("a={b: [1, 2.5e4]}", {"a": {"b": [1, 2.5e4]}}),
        ('a="1e3"', {"a": "1e3"}),
    ],
)
def test_overrides_are_yaml(word, tree):
    assert parse_overrides([word]) == tree


@pytest.mark.parametrize("word", ["seed", "=3", "--seed=3", "a=[1"])
def test_words_that_are_no_settings(word):
    with pytest.raises(ConfigError):
        parse_overrides([word])
