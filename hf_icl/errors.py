"""Errors that a user can act on. Each says what was wrong, the rule, and the way out."""

from __future__ import annotations

from hf_icl.wording import say_plainly, shorten


class HfIclError(Exception):
    """Base of every error that the user's input or files can cause; the command line exits with code 2.

    As text it holds no control characters and nothing that looks like a token, and is a screen long at most.
    """

    def __str__(self) -> str:
        return say_plainly(super().__str__())


class ConfigError(HfIclError, ValueError):
    """A setting is out of range, unknown, or at odds with another.

    Args:
        field: Dotted name of the setting, such as `train.burst`.
        value: What was found there.
        rule: What must hold.
        hint: What to do about it.

    >>> print(ConfigError("train.burst", 9, "burst must fit into n_context = 8", "Lower burst."))
    train.burst = 9: burst must fit into n_context = 8. Lower burst.
    """

    def __init__(self, field: str, value: object, rule: str, hint: str = "") -> None:
        self.field, self.value, self.rule, self.hint = field, value, rule, hint
        super().__init__(field, value, rule, hint)

    def __str__(self) -> str:
        text = f"{self.field} = {shorten(self.value)}: {self.rule.rstrip('.')}."
        return say_plainly(f"{text} {self.hint}" if self.hint else text)

    def within(self, parent: str) -> ConfigError:
        """Return the same error with its field named from one level further out."""
        field = f"{parent}.{self.field}" if self.field else parent
        return ConfigError(field, self.value, self.rule, self.hint)


class BankError(HfIclError, ValueError):
    """The exemplars cannot be had: a file is missing, broken, or not of the shape that was asked for."""


class RunError(HfIclError):
    """A run folder cannot be used as asked: unreadable, of another version, or made with another config."""


class FileError(RunError):
    """A file or folder cannot be read or written.

    Args:
        path: Which.
        reason: Why, as the system says it: an `OSError`, or words.
        way_out: What is whole, and what to do about it.

    >>> print(FileError("runs/a", OSError(28, "No space left on device"), "Free some space."))
    runs/a: cannot be written (No space left on device). Free some space.
    """

    def __init__(self, path: object, reason: OSError | str, way_out: str, *, action: str = "written") -> None:
        if isinstance(reason, OSError):
            reason = reason.strerror or str(reason)
        super().__init__(f"{path}: cannot be {action} ({reason}). {way_out}".rstrip())


class HubError(RunError):
    """The Hub cannot be reached, refuses, or holds something else than it should."""


class LostProcessError(RunError):
    """Another process of the same run has ended, so that this one cannot go on."""


class DivergedError(RunError):
    """The loss of a run is no number any more, so that it has ended before its last step."""
