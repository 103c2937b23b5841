"""The settings of a held text; loads nothing, so that configs are read soon."""

from __future__ import annotations

from typing import Any

import pydantic

from hf_icl.config import Config


class HeldText(Config):
    """A text that a model never trains on here, and how much of it is read; see `TextInstrument`.

    >>> HeldText(source="held.txt").n_windows
    16
    """

    source: str = pydantic.Field(
        min_length=1, description="A text file, or a data set: a folder, or a name on the Hub."
    )
    column: str = pydantic.Field(default="text", description="Of a data set, the column with the text.")
    split: str = pydantic.Field(default="test", description="Of a data set, the part.")
    n_windows: int = pydantic.Field(default=16, ge=1, le=1 << 16, description="Windows that count.")
    window: int = pydantic.Field(
        default=512, ge=2, le=1 << 20, description="Tokens of each, at most as many as the model has places."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value
