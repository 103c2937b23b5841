"""The table of changes in docs/architecture.md stays true: what enters a registry is seen everywhere,
and nowhere named again."""

import ast
import dataclasses
import io
import json
import re
from typing import get_args

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.kinds import KINDS, BankConfig
from hf_icl.cli.main import app
from hf_icl.data.card import SplitFacts, write_card
from hf_icl.data.config import DatasetConfig
from hf_icl.data.tables import SequenceTables
from hf_icl.history.history import History
from hf_icl.hub.eval_results import list_eval_results
from hf_icl.report import figures
from hf_icl.report.write import write_report
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run
from hf_icl.summary.measures import MEASURES, CurveSummary
from hf_icl.task.evaluators import EVALUATORS, EvaluatorKind
from hf_icl.task.measuring import Reading
from hf_icl.training.display import LiveDisplay
from hf_icl.training.interventions.base import Intervention
from hf_icl.training.interventions.kinds import KINDS as INTERVENTIONS, AnyIntervention
from tests.programs import TINY
from tests.rooms import PACKAGE, list_modules, room_of

ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"


def two_shots(n_context):
    """Two classes, labels remapped, from the training pool: what a new evaluator may be."""
    return EVALUATORS["icl"].make_spec(n_context).replace(exemplars="train")


@pytest.fixture(scope="module")
def with_mine(tmp_path_factory):
    """A run of a task that has one more standard evaluator, entered into the registry and nowhere else."""
    kind = EvaluatorKind("mine", "Mine", "mine", "two classes of mine: only the context can tell", two_shots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EVALUATORS, "mine", kind)
        folder = tmp_path_factory.mktemp("changes")
        run = Run.create(load_config("default", [*TINY, "training.steps=4", "evaluate=2"]), folder / "run")
        told = io.StringIO()
        run.train(Console(file=told, width=200))
        report = write_report([run.record()], folder / "run/report", card=folder / "run/README.md")
        yield run, report, told.getvalue()


def test_a_new_evaluator_is_measured_and_summarised(with_mine):
    run, report, _ = with_mine
    row = run.history.rows[-1]
    assert {"mine/accuracy", "mine/loss", "mine/context_accuracy"} <= row["metrics"].keys()
    assert "mine/accuracy" in row["hits"] and run.about["chance"]["mine/accuracy"] == 0.25
    found = report.document["runs"][0]
    assert found["measures"]["mine/accuracy"]["peak"]["interval"] is not None
    assert found["n_sequences"]["mine"] == 40


def test_a_new_evaluator_is_seen_on_page_card_and_figure(with_mine):
    run, report, _ = with_mine
    page, card = report.page.read_text("utf-8"), (run.folder / "README.md").read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    shown = {one["name"]: one for one in data["evaluators"]}
    assert shown["mine"]["title"] == "Mine accuracy" and shown["mine"]["shown"]
    assert list(shown).index("mine") < len(EVALUATORS)
    assert "Mine accuracy" in page and "| Mine accuracy: peak |" in card
    labels = [text.get_text() for text in figures.draw_figure(report.analysis).legends[0].get_texts()]
    assert "Mine accuracy" in labels


def test_a_new_evaluator_is_seen_while_it_trains(with_mine):
    run, _, told = with_mine
    assert re.search(r"step +4 / 4 .* mine \d\.\d{3} ", told)
    drawn = Console(file=io.StringIO(), width=120, force_terminal=True)
    drawn.print(LiveDisplay(drawn, run.history).render(4, 4, 1.0))
    assert "mine" in drawn.file.getvalue()


def test_a_new_evaluator_is_a_split_with_a_meaning_and_a_result_on_the_hub(with_mine):
    run, _, _ = with_mine
    config = DatasetConfig(task=run.config.task, n_sequences=10)
    tables = SequenceTables(run.build_task(), config)
    assert tables.evaluators["mine"] == "mine" and tables.count_rows("mine") == 40
    card = write_card("mine", config, tables.features, {"mine": SplitFacts(40, 1, 1)})
    assert "| `mine` | 40 | two classes of mine: only the context can tell |" in card
    assert "mine" in {entry.task_id for entry in list_eval_results(run.record(), "me/data")}
    assert load_config("default", ["task.evaluators=[icl, mine]"]).task.evaluators == ("icl", "mine")


@pytest.mark.integration
def test_an_instrument_goes_where_evaluators_go(tmp_path):
    """What a user measures beside the evaluators is named in history, log, and page;
    hits give it intervals."""

    def heads(task, model, *, batch_size, spread):
        assert not model.training and not torch.is_grad_enabled()
        return Reading({"heads/induction": 0.5}, {"heads/induction": torch.tensor([True, False])})

    run = Run.create(load_config("default", [*TINY, "training.steps=2", "evaluate=1"]), tmp_path / "run")
    trainer = run.build_trainer(History(run.folder / "history.jsonl"))
    trainer.transience.instruments = (heads,)
    trainer.train()
    row = run.history.rows[-1]
    assert row["metrics"]["heads/induction"] == 0.5 and row["hits"]["heads/induction"] == "gA=="
    assert any("heads/induction" in entry for entry in trainer.state.log_history)
    page = write_report([run.record()], tmp_path / "report").page.read_text("utf-8")
    assert '"heads/induction"' in page and "Induction, all evaluators" in page


def test_every_measure_has_a_definition_a_title_and_a_field():
    own = [field.name for field in dataclasses.fields(CurveSummary)]
    assert own == ["n_evaluations", "chance", *MEASURES, "verdict"]
    for name, one in MEASURES.items():
        told = one.describe()
        assert told["words"] and told["formula"] and one.title, name


def test_bank_kinds_are_listed_once():
    union = get_args(BankConfig)[0]
    assert set(get_args(union)) == set(KINDS.values())
    for kind, config in KINDS.items():
        assert config.model_fields["kind"].default == kind and issubclass(config, BankConfigBase)
        assert "load" in vars(config)


def test_interventions_are_listed_once():
    union = get_args(AnyIntervention)[0]
    assert set(get_args(union)) == set(INTERVENTIONS.values())
    for kind, config in INTERVENTIONS.items():
        assert config.model_fields["kind"].default == kind and config.bind is not Intervention.bind


def test_nobody_else_names_kinds_and_evaluators():
    """A name in quotes outside the registry would have to be found and changed with it."""
    kinds, evaluators = set(KINDS) - {"features"}, {"icl", "icl_holdout", "iwl", "ciwl", "flip"}
    # the model to be fine-tuned gives its own vocabulary; the data set has a default; a record tells what a
    # model reads
    allowed = {"hf_icl.runs.config", "hf_icl.data.builder", "hf_icl.history.record"}
    for module, path in list_modules().items():
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant)
        }
        if room_of(module) != "banks" and module not in allowed:
            assert not kinds & texts, module
        if module != "hf_icl.task.evaluators":
            assert not evaluators & texts, module


def list_commands() -> list[str]:
    found = [command.name or command.callback.__name__ for command in app.registered_commands]
    for group in app.registered_groups:
        found += [
            f"{group.name} {one.name or one.callback.__name__}"
            for one in group.typer_instance.registered_commands
        ]
    return found


@pytest.mark.parametrize("command", list_commands())
def test_every_command_has_help_with_an_example(command):
    output = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert f"Example: hf-icl {command} " in re.sub(r"[\s`]+", " ", output)


def test_commands_stand_in_the_order_in_which_they_are_needed():
    assert list_commands() == [
        "run",
        "resume",
        "report",
        "plan",
        "presets",
        "evaluate",
        "trace",
        "prompts",
        "circuits",
        "push",
        "pull",
        "sweep",
        "reproduce",
        "data show",
        "data export",
        "data push",
        "claims push",
        "claims write",
        "claims show",
        "metrics push",
    ]


def test_the_table_of_changes_names_files_that_are_there():
    rows = re.findall(r"^\| (a new .*?) \| (\d) \| (.*?) \|$", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    assert [int(number) for _, number, _ in rows] == [2, 2, 1, 0, 1, 2, 1, 1, 2, 2]
    for change, number, text in rows:
        files = re.findall(r"`([\w/]+\.py)`", text)
        assert len(files) <= int(number), change
        for file in files:
            assert (PACKAGE / file).exists() or (PACKAGE.parent / file).exists(), (change, file)
