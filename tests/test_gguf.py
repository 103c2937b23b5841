"""A GGUF file is a checkpoint like any other; and no path of this machine is in what a run writes."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_icl.banks import gguf as unpacking
from hf_icl.banks.embeddings import read_embeddings
from hf_icl.banks.gguf import unpack
from hf_icl.errors import BankError, RunError
from hf_icl.local import LOCAL_FILE
from hf_icl.models.build import load_model
from hf_icl.report.card import render_card
from hf_icl.report.write import write_report
from hf_icl.runs.config import load_config
from hf_icl.runs.extending import extend
from hf_icl.runs.run import Run
from tests.tiny_gguf import answer, write_gguf

# peft 0.21 still asks for what transformers renames in v6.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning"),
]
SMALL = [
    "task.bank.n_classes=20", "task.bank.n_holdout_classes=4", "task.bank.n_exemplars=3",
    "task.bank.n_labels=8", "task.n_eval_sequences=8", "training.batch_size=4", "training.steps=2",
    "training.checkpoint_every=2", "training.threads=1", "evaluate=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "unpacked"
    monkeypatch.setenv("HF_ICL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def packed(pretrained, tmp_path_factory):
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("packed") / "Tiny-Llama"
    folder.mkdir()
    return folder, write_gguf(folder / "tiny.f32.gguf", pretrained / "tokenizer.json")


@pytest.mark.parametrize("whole_folder", [True, False])
def test_what_is_unpacked_is_the_model_that_was_packed(packed, whole_folder, pretrained):
    folder, model = packed
    source = str(folder if whole_folder else folder / "tiny.f32.gguf")
    found = unpack(source)
    assert found == unpack(source)  # once
    again, tokenizer = AutoModelForCausalLM.from_pretrained(found), AutoTokenizer.from_pretrained(found)
    assert torch.allclose(answer(again), answer(model), atol=1e-5)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert not hasattr(again.config, "quantization_config")
    text = "The quick brown fox, def f(x): return x"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(pretrained)(text)["input_ids"]
    assert torch.equal(read_embeddings(source), model.model.embed_tokens.weight)


def list_texts(folder):
    """Return every text that a run wrote, but for the hidden file and what is a pickle of the trainer's."""
    texts = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in (LOCAL_FILE, "training_args.bin"):
            texts[path.relative_to(folder)] = path.read_bytes()
    return texts


@pytest.mark.integration
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_on_a_gguf_folder_trains_reports_and_goes_on_without_naming_a_path(packed, lora, tmp_path):
    folder, _ = packed
    words = [f"model.pretrained={folder}", *SMALL, *(["model.lora={rank: 2}"] if lora else [])]
    config = load_config("finetune", words)
    run = Run.create(config, tmp_path / "run", command=f"hf-icl run finetune model.pretrained={folder}")
    run.train()
    report = write_report([run.record()], run.folder / "report")
    (run.folder / "README.md").write_text(render_card(report.analysis))
    places = [str(folder.parent).encode(), str(unpack(str(folder))).encode()]
    for name, text in list_texts(run.folder).items():
        assert not any(place in text for place in places), name
    shown = json.loads((run.folder / "run.json").read_text())["config"]
    assert shown["model"]["pretrained"] == shown["task"]["bank"]["source"] == "local:Tiny-Llama"
    assert "model.pretrained=local:Tiny-Llama" in (run.folder / "README.md").read_text()
    opened = Run.open(run.folder)
    assert opened.config == config  # it knows where its folders are
    assert opened.load_model().get_input_embeddings().weight.shape[1] == 32
    extend(opened, 3).train()
    assert Run.open(run.folder).history.last_step == 3


def test_elsewhere_a_run_from_a_folder_says_what_is_missing(packed, tmp_path):
    folder, _ = packed
    config = load_config("finetune", [f"model.pretrained={folder}", *SMALL, "model.lora={rank: 2}"])
    run = Run.create(config, tmp_path / "run")
    run.train()
    pulled = tmp_path / "pulled"
    shutil.copytree(run.folder, pulled, ignore=shutil.ignore_patterns(LOCAL_FILE))
    with pytest.raises(RunError, match="Tiny-Llama: is a folder of the machine that made the run"):
        load_model(pulled)
    with pytest.raises(RunError, match="not known here"):
        Run.open(pulled).build_task()


def test_a_file_that_only_says_gguf(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGML")
    with pytest.raises(BankError, match="is no GGUF file"):
        unpack(str(tmp_path))
    (tmp_path / "y.gguf").write_bytes(b"GGUF")
    with pytest.raises(BankError, match=r"holds 2 GGUF files \(x.gguf, y.gguf\). Name one"):
        unpack(str(tmp_path))
    pytest.importorskip("gguf")
    with pytest.raises(BankError, match="cannot read it"):
        unpack(str(tmp_path / "y.gguf"))
    (tmp_path / "config.json").write_text("{}")
    assert unpack(str(tmp_path)) == str(tmp_path)


def test_without_the_package_it_says_what_to_install(packed, monkeypatch):
    def refuse(*args, **kwargs):
        raise ImportError("no gguf")

    monkeypatch.setenv("HF_ICL_CACHE", str(packed[0] / "other"))
    monkeypatch.setattr(unpacking.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(BankError, match=r"pip install 'hf-icl\[gguf\]'"):
        unpack(str(packed[0]))


def test_a_name_on_the_hub_is_left_alone():
    assert unpack("EleutherAI/pythia-70m") == "EleutherAI/pythia-70m"
