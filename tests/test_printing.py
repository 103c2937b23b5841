"""Nothing from data steers a terminal, and no token is shown, wherever text is printed or kept."""

import ast
import io
import json
import logging
import random
import re
import sys
import warnings
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hf_icl.cli import app as cli_app, main as cli
from hf_icl.cli.app import PatientConsole
from hf_icl.config import refuse_secrets
from hf_icl.errors import ConfigError, RunError
from hf_icl.history.origin import describe_origin
from hf_icl.runs.config import load_config
from hf_icl.sweeps.config import load_sweep
from tests.rooms import PACKAGE

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"]
CONTROLS += [*"\u200e\u200f\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff\u061c"]
ATTACKS = ["\x1b]0;mine\x07", "\x1b[2J", "\x9b31m", "\x1bP$q\x1b\\", "\r\x1b[A", "\x1b]8;;http://x\x1b\\y"]
OWN = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")  # how rich colours, and draws a line anew
TOKEN_KINDS = (
    "hf_{}",
    "api_org_{}",
    "ghp_{}",
    "sk-{}",
    "https://me:{}@place/x",
    "token={}",
    "password: '{}'",
)


def make_hostile(seed: int) -> tuple[str, str]:
    """Return text with control characters and a token in it, and that token."""
    chance = random.Random(seed)
    secret = "".join(chance.choices("abcdefghijkABCDEFGHIJK0123456789", k=30))
    parts = [*chance.choices(CONTROLS, k=4), *chance.choices(ATTACKS, k=2), "runs/a", "b c"]
    chance.shuffle(parts)
    return " ".join(["".join(parts), chance.choice(TOKEN_KINDS).format(secret), "end"]), secret


def assert_harmless(shown: str, secret: str) -> None:
    left = OWN.sub("", shown)
    assert not [sign for sign in left if sign in CONTROLS], left
    assert secret not in re.sub(r"\s", "", shown)


def print_all_ways(console: Console, text: str) -> None:
    """Print text in every way that a command does."""
    table = Table(text, "b", title=text, box=None)
    table.add_row(text, Text(text))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(Text(text), Panel(Text(text)), table, soft_wrap=True)
    console.print_json(json.dumps({"a": text}), ensure_ascii=False)
    console.rule(Text(text))
    with console.status(Text(text)) as status:
        status.update(Text(text))
    with Live(console=console, auto_refresh=False) as live:
        grid = Table.grid()
        grid.add_row(Text(text), ProgressBar(total=2, completed=1))
        live.update(grid, refresh=True)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_a_console_shows_control_characters_and_obeys_none(seed, terminal):
    text, secret = make_hostile(seed)
    shown = io.StringIO()
    print_all_ways(PatientConsole(file=shown, force_terminal=terminal, width=400), text)
    assert shown.getvalue().count("end") >= 5
    assert_harmless(shown.getvalue(), secret)


def fail_with(error: BaseException):
    def fail(*_, **__):
        logging.getLogger("anybody").warning("%s", error)
        logging.getLogger("with_a_handler_of_its_own").warning("%s", error)
        warnings.warn(str(error), stacklevel=1)
        raise error

    return fail


@pytest.mark.parametrize("kind", [RunError, OSError, ValueError, KeyError, typer.BadParameter])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_command_raises_is_shown_plainly(monkeypatch, capfd, kind, seed):
    """Errors for users, of the system, of the command line, and tracebacks of faults; warnings too."""
    text, secret = make_hostile(seed)
    error = OSError(13, "Permission denied", text) if kind is OSError else kind(text)
    handlers = logging.getLogger().handlers[:]
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("with_a_handler_of_its_own"), "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    monkeypatch.setattr(cli.os, "environ", dict(cli.os.environ))
    monkeypatch.delitem(sys.modules, "transformers.utils.logging", raising=False)
    monkeypatch.setattr(logging, "_warnings_showwarning", None)
    monkeypatch.setattr(typer.main, "get_command", lambda _: fail_with(error))
    monkeypatch.setattr(sys, "argv", ["hf-icl"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("always")
        cli.main()
    said = capfd.readouterr()
    logging.getLogger().handlers = handlers
    assert ended.value.code == (1 if kind in (ValueError, KeyError) else 2)
    assert_harmless(said.out + said.err, secret)
    assert ("Traceback" in said.err) == (kind in (ValueError, KeyError)) and said.err.count("runs") >= 3


@pytest.mark.parametrize("told", ["info", None])
def test_other_libraries_show_no_bars_unless_asked_to(monkeypatch, told):
    """They read the environment when they are imported; one that is there already is told."""
    calls = []
    loaded = SimpleNamespace(
        set_verbosity_error=lambda: calls.append("errors"),
        disable_progress_bar=lambda: calls.append("no bars"),
    )
    monkeypatch.setitem(sys.modules, "transformers.utils.logging", loaded)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    monkeypatch.setattr(cli.os, "environ", {"TRANSFORMERS_VERBOSITY": told} if told else {})
    monkeypatch.setattr(sys, "argv", ["hf-icl", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert cli.os.environ == cli.QUIET | ({"TRANSFORMERS_VERBOSITY": told} if told else {})
    assert calls == (["no bars"] if told else ["errors", "no bars"])


def test_all_that_is_printed_goes_one_way():
    """No other place makes a console that speaks, or writes to the terminal itself."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            quiet = any(word.arg == "quiet" for word in node.keywords)
            if (name.endswith("Console") and not quiet) or name in ("print", "typer.echo", "click.echo"):
                found.add((name, path.relative_to(PACKAGE).as_posix()))
            if re.fullmatch(r"sys\.std(out|err)\.write", name):
                found.add((name, path.relative_to(PACKAGE).as_posix()))
    assert found == {
        ("PatientConsole", "cli/app.py"), ("PatientConsole", "cli/main.py"),
        ("rich.console.Console", "banks/bank.py"),  # its words are cleaned there
        ("sys.stderr.write", "cli/main.py"),  # a traceback, cleaned
        ("sys.stderr.write", "sweeps/worker.py"),  # an error for users, which is plain
        ("sys.stdout.write", "cli/run.py"),  # files of ours, and YAML, which escapes
    }  # fmt: skip
    assert isinstance(cli_app.console, PatientConsole)


@pytest.mark.parametrize("kind", TOKEN_KINDS[:5])
@pytest.mark.parametrize("where", ["value", "key", "word"])
def test_a_token_comes_into_no_record(tmp_path, kind, where):
    secret = kind.format("abcdefghijklmnopqrstuvwxyz0123")
    if where == "word":
        told = describe_origin(0, f"hf-icl run {secret}")["command"]
        assert "abcdefghijklmnop" not in told and "***" in told
        return
    tree = {"run_name": secret} if where == "value" else {secret: 1}
    with pytest.raises(ConfigError, match="looks like a token or password") as caught:
        refuse_secrets({"training": {"arguments": tree}})
    assert "abcdefghijklmnop" not in str(caught.value)
    sweep = tmp_path / "mine.yaml"
    key = "training.arguments" if where == "value" else f"model.{secret}"
    sweep.write_text(json.dumps({"grid": {"seed": [0]}, "set": {key: tree}}))
    with pytest.raises(ConfigError, match="looks like a token or password") as caught:
        load_sweep(sweep)
    assert "abcdefghijklmnop" not in str(caught.value)


def test_presets_are_no_tokens():
    from hf_icl.runs.presets import list_presets

    for name in list_presets():
        refuse_secrets(load_config(name).to_dict())


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_presets_that_are_laid_over_themselves_are_told(tmp_path, length, monkeypatch):
    """By any name of the files: relative, absolute, through links."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for number in range(length):
        below = random.Random(number).choice(["", "./", "link/", f"{tmp_path}/"])
        text = f"preset: {below}{(number + 1) % length}.yaml\nseed: {number}\n"
        (tmp_path / f"{number}.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"is laid over itself \(.*0.yaml\)"):
        load_config("0.yaml")
    (tmp_path / f"{length - 1}.yaml").write_text("preset: default\nseed: 9\n")
    assert load_config("0.yaml").seed == (0 if length > 1 else 9)


def test_a_chain_of_presets_has_an_end(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}.yaml").write_text(f"preset: {tmp_path}/{number + 1}.yaml\n")
    with pytest.raises(ConfigError, match="more than 50 layers down"):
        load_config(str(tmp_path / "0.yaml"))
