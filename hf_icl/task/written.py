"""The settings of a prompt: how sequences are written for a language model. Loads no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pydantic

from hf_icl.config import Config

TemplateName = Literal["bare", "arrow", "colon", "qa"]


class Text(NamedTuple):
    """What is written around an exemplar and its label; words bring the space that begins them along."""

    before: str
    between: str
    after: str


TEMPLATES: dict[str, Text] = {
    "bare": Text("", "", ""),
    "arrow": Text("", " ->", "\n"),
    "colon": Text("", ":", "\n"),
    "qa": Text("Q:", "\nA:", "\n"),
}
"""By name: `x l x l …`, `x -> l` and a new line, `x: l` and a new line, `Q: x`, a new line and `A: l`."""


class PromptConfig(Config):
    """How sequences are written for a language model.

    >>> PromptConfig(template="qa", after="\\n\\n").text
    Text(before='Q:', between='\\nA:', after='\\n\\n')
    """

    template: TemplateName = pydantic.Field(
        default="bare",
        description="bare: x l x l …; arrow: `x -> l` and a new line; colon: `x: l` and a new line; qa: "
        "`Q: x`, a new line, `A: l` and a new line.",
    )
    start: str = pydantic.Field(
        default="", description="Text before the first pair, as an instruction; of a chat, its system's turn."
    )
    before: str | None = pydantic.Field(
        default=None, description="Text before each exemplar; null: the template's."
    )
    between: str | None = pydantic.Field(
        default=None, description="Text between exemplar and label; null: the template's."
    )
    after: str | None = pydantic.Field(
        default=None,
        description="Text after each label; null: the template's. Of a chat, the turn ends there.",
    )
    chat: bool = pydantic.Field(
        default=False,
        description="Write each pair as a turn of the user and one of the assistant, in the model's chat "
        "template.",
    )

    @property
    def text(self) -> Text:
        """What is written around exemplars and labels."""
        own = {name: getattr(self, name) for name in Text._fields}
        return TEMPLATES[self.template]._replace(
            **{name: text for name, text in own.items() if text is not None}
        )

    @property
    def is_bare(self) -> bool:
        """Whether nothing is written around them."""
        return not (self.chat or self.start or any(self.text))

    def __str__(self) -> str:
        """Return how two pairs and a query look.

        >>> print(PromptConfig(template="arrow", start="Sort:\\n"))
        Sort:⏎ x -> l⏎ x -> l⏎ x ->
        >>> print(PromptConfig())
        x l x l x
        """
        before, between, after = self.text
        after = "" if self.chat else after
        turns = ("⟨user⟩", "⟨assistant⟩") if self.chat else ("", "")
        query = f"{turns[0]}{before} x{between}{turns[1]}"
        written = (f"⟨system⟩{self.start}" if self.chat and self.start else self.start) + (
            f"{query} l{after}" * 2 + query
        )
        return written.replace("\n", "⏎").strip(" ")
