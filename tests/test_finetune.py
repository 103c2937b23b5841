"""A pretrained language model, made by the tests themselves, is fine-tuned and measured before,
during and after."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_icl.errors import ConfigError
from hf_icl.models.build import build_model, load_model
from hf_icl.runs.config import load_config
from hf_icl.runs.run import Run, build_task

# peft 0.21 still asks for what transformers renames in v6.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

SMALL = [
    "task.n_eval_sequences=60", "training.batch_size=16", "training.steps=20", "training.checkpoint_every=10",
    "training.threads=1", "evaluate=10",
]  # fmt: skip
SYMBOLIC = "task.bank={kind: symbolic, n_classes: 24, n_holdout_classes: 4, n_labels: 4}"


def finetune_config(pretrained, *more):
    return load_config(
        "default", [*SMALL, SYMBOLIC, "task.form=tokens", f"model.pretrained={pretrained}", *more]
    )


def forget_the_end(folder):
    """Take a finished run back to its middle, as a kill leaves it: one checkpoint, one row too many."""
    for name in ("complete.json", "checkpoint-20/complete.json"):
        (folder / name).unlink()


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, pretrained, tmp_path_factory):
    more = ["model.lora={rank: 2}"] if request.param == "lora" else []
    made = Run.create(finetune_config(pretrained, *more), tmp_path_factory.mktemp("runs") / request.param)
    made.train()
    return made


@pytest.mark.integration
def test_it_is_measured_before_during_and_after(run, pretrained):
    rows = run.history.rows
    assert [row["step"] for row in rows] == [0, 10, 20]
    task = run.build_task()
    before = task.measure(AutoModelForCausalLM.from_pretrained(pretrained))[0]
    assert rows[0]["metrics"] == pytest.approx(before, abs=1e-6)
    assert rows[-1]["metrics"] == task.measure(run.load_model())[0]
    assert rows[-1]["metrics"]["train/loss"] < before["train/loss"] - 0.2


@pytest.mark.integration
def test_tokenizer_and_vocabulary_stay_as_they_were(run, pretrained):
    assert (run.folder / "tokenizer.json").read_bytes() == (pretrained / "tokenizer.json").read_bytes()
    kept, given = AutoTokenizer.from_pretrained(run.folder), AutoTokenizer.from_pretrained(pretrained)
    assert kept.get_vocab() == given.get_vocab() and kept.special_tokens_map == given.special_tokens_map
    tables = [model.get_input_embeddings().weight for model in (run.load_model(), load_model(pretrained))]
    assert tables[0].shape == tables[1].shape
    assert len(kept) == len(tables[0])


@pytest.mark.integration
def test_lora_saves_adapters_and_leaves_the_rest_alone(run, pretrained):
    weights = {path.name for path in run.folder.glob("*.safetensors")}
    if run.config.model.lora is None:
        assert weights == {"model.safetensors"}
        return
    assert weights == {"adapter_model.safetensors"}
    adapters = load_file(run.folder / "adapter_model.safetensors")
    assert all("lora_" in name and min(tensor.shape) == 2 for name, tensor in adapters.items())
    base = run.load_model().unload()
    original = AutoModelForCausalLM.from_pretrained(pretrained).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in base.state_dict().items())


@pytest.mark.integration
def test_stopped_in_the_middle_it_resumes_to_the_same_bytes(run):
    names = ["history.jsonl", *(path.name for path in run.folder.glob("*.safetensors"))]
    before = {name: (run.folder / name).read_bytes() for name in names}
    forget_the_end(run.folder)
    assert not run.is_finished
    Run.open(run.folder).train()
    assert {name: (run.folder / name).read_bytes() for name in names} == before


def test_the_body_of_a_pretrained_model_in_vectors_form(pretrained):
    config = load_config("default", [f"model.pretrained={pretrained}", "task.n_eval_sequences=20"])
    model = build_model(config.model, build_task(config), seed=config.seed)
    body = AutoModelForCausalLM.from_pretrained(pretrained).transformer
    assert torch.equal(model.backbone.h[1].mlp.c_fc.weight, body.h[1].mlp.c_fc.weight)


def test_a_fresh_language_model_started_from_the_bank(tmp_path):
    words = ["task.form=tokens", "model.backbone={model_type: gpt2, n_layer: 1, n_embd: 16, n_head: 2}"]
    bank = "task.bank={n_classes: 12, n_holdout_classes: 4, n_exemplars: 2, dim: 16, eps: 0.3, n_labels: 4}"
    config = load_config("default", [*SMALL, *words, bank, "model.fill_tokens=true"])
    task = build_task(config)
    table = build_model(config.model, task, seed=config.seed).get_input_embeddings().weight
    assert table.shape == (16 * 2 + 4, 16)
    same = torch.cosine_similarity(table[0:32:2], table[1:32:2])
    assert same.mean() > 0.6
    fresh = build_model(
        config.replace(model=config.model.replace(fill_tokens=False)).model, task, seed=config.seed
    )
    assert (
        torch.cosine_similarity(*fresh.get_input_embeddings().weight[:32].view(16, 2, 16).unbind(1)).mean()
        < 0.3
    )
    made = Run.create(config, tmp_path / "run")
    made.train()
    assert json.loads((made.folder / "config.json").read_text())["vocab_size"] == 36


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["model.pretrained=/nowhere"], "model.pretrained = '/nowhere': cannot be loaded"),
        (["model.pretrained=null"], "a task in tokens form needs a causal language model"),
        (["model.lora={rank: 2}", "model.pretrained=null"], "LoRA adapts a pretrained model"),
        (["model.revision=main", "model.pretrained=null"], "there is no pretrained checkpoint"),
        (["model.fill_tokens=true"], "a pretrained table of token embeddings stays"),
        (["model.backbone={model_type: gpt2}"], "brings its own backbone"),
        (["model.lora={rank: 2, target_modules: [nothing]}"], "peft refuses it"),
        (["model.lora={rank: 2}", "task.form=vectors"], "LoRA is for causal language models"),
        (
            ["model.pretrained=null", "model.backbone={model_type: vit}"],
            "transformers has no causal language model of it",
        ),
        (["task.bank={kind: symbolic, n_classes: 2000, n_labels: 4}"], "vocabulary of"),
    ],
)
def test_what_cannot_be_fine_tuned_says_why(pretrained, words, text):
    with pytest.raises(ConfigError) as error:
        config = finetune_config(pretrained, *words)
        task = build_task(config)
        task.check_model(build_model(config.model, task, seed=config.seed))
    assert text in str(error.value), str(error.value)
