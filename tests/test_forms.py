"""Forms: token sequences worked by hand, and models that a form refuses."""

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_icl.banks import Vocabulary, make_bank
from hf_icl.errors import ConfigError
from hf_icl.models import ICLModel
from hf_icl.sequences.batch import SequenceBatch
from hf_icl.task.config import TaskConfig
from hf_icl.task.forms import TokenForm, fill_token_table
from hf_icl.task.task import Task

SYMBOLIC = {"kind": "symbolic", "n_classes": 8, "n_holdout_classes": 2, "n_exemplars": 2, "n_labels": 3}
GAUSSIAN = {
    "kind": "gaussian",
    "n_classes": 16,
    "n_holdout_classes": 4,
    "n_exemplars": 3,
    "dim": 8,
    "n_labels": 3,
}


def one_sequence() -> SequenceBatch:
    """(class 1, exemplar 0) is labelled 2, (class 4, exemplar 1) is labelled 0; asked: (class 1,
    exemplar 1)."""
    columns = [[[1, 4, 1]], [[0, 1, 1]], [[2, 0, 2]], [[0, 1, 3]]]
    return SequenceBatch(torch.tensor([0]), *map(torch.tensor, columns), noise=None, seed=0, stream=0)


def gpt2(vocabulary: int = 23, **changes) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": vocabulary}
    return GPT2LMHeadModel(GPT2Config(**sizes | changes)).eval()


@pytest.fixture(scope="module")
def task():
    return Task(TaskConfig(bank=SYMBOLIC, form="tokens", train={"n_context": 2, "burst": 1}))


def test_tokens_of_a_fresh_vocabulary(task):
    """20 exemplars are tokens 0 to 19, class · 2 + exemplar; labels follow from 20 on."""
    inputs = task.encode(one_sequence())
    assert inputs["input_ids"].tolist() == [[2, 22, 9, 20, 3, 22]]
    assert inputs["labels"].tolist() == [[-100] * 5 + [22]]


def test_tokens_of_a_model_s_own_vocabulary():
    tokens = torch.tensor([[11, 12], [13, 14], [15, 16], [17, 18], [19, 20]])
    vocabulary = Vocabulary(label_tokens=torch.tensor([30, 31, 32]), size=40, prefix=(7, 8))
    bank = make_bank("mine", None, tokens, n_labels=3, vocabulary=vocabulary)
    inputs = TokenForm().encode(bank, one_sequence())
    assert inputs["input_ids"].tolist() == [[7, 8, 13, 32, 20, 30, 14, 32]]
    assert inputs["labels"].tolist() == [[-100] * 7 + [32]]
    assert Task(TaskConfig(bank=SYMBOLIC), bank=bank).form == TokenForm()


def test_scores_read_the_logits_of_label_tokens_only(task):
    model, batch = gpt2(), task.sampler("icl").draw(0, 6)
    wanted = model(task.encode(batch)["input_ids"]).logits[:, -2, 20:23]
    assert torch.allclose(task.predict(model, batch), wanted, atol=1e-6)
    model.set_output_embeddings(torch.nn.Linear(16, 23))  # whose bias makes every other token far likelier
    with torch.no_grad():
        model.lm_head.bias[:20] += 100
    means, _ = task.measure(model)
    assert means["icl/loss"] < 3 and means["icl/accuracy"] > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_of_unequal_length_are_read_at_the_query(task, side):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")), pad_token="<pad>"
    )
    tokenizer.padding_side = side
    shorter = {"one": {"n_context": 1, "burst": 1, "distractor": False}}
    both = Task(task.config.replace(extra_evaluators=shorter))
    rows, wanted, model = [], [], gpt2()
    for name in ("icl", "one"):
        batch = both.sampler(name).draw(0, 3)
        inputs = both.encode(batch)
        rows += [{key: values[i].tolist() for key, values in inputs.items()} for i in range(3)]
        wanted.append(both.predict(model, batch))
    padded = DataCollatorForSeq2Seq(tokenizer)(rows)
    positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits = model(
        padded["input_ids"], attention_mask=padded["attention_mask"], position_ids=positions
    ).logits
    answers = both.form.read_logits(both.bank, logits, padded["labels"])
    assert torch.allclose(answers, torch.cat(wanted), atol=1e-5)


def test_a_table_started_from_a_bank_shows_its_classes():
    task = Task(TaskConfig(bank=GAUSSIAN | {"eps": 0.3}, form="tokens"))
    model = gpt2(64)
    before = model.get_input_embeddings().weight.detach().clone()
    fill_token_table(model, task.bank)
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[60:], before[60:])  # labels stay
    assert 0.5 < float(after[:60].std() / before.std()) < 2
    rows = torch.nn.functional.normalize(after[:60].view(20, 3, 16), dim=-1)
    same = (rows[:, 0] * rows[:, 1]).sum(-1)
    other = (rows[:-1, 0] * rows[1:, 1]).sum(-1)
    assert same.mean() > 0.7 and other.mean().abs() < 0.3
    with pytest.raises(ConfigError, match="only a bank of vectors"):
        fill_token_table(model, Task(TaskConfig(bank=SYMBOLIC)).bank)


def test_tokens_carry_no_noise():
    with pytest.raises(ConfigError, match=r"train.noise = 0.5: tokens carry no noise"):
        Task(TaskConfig(bank=GAUSSIAN, form="tokens", train={"n_context": 4, "burst": 1, "noise": 0.5}))


def bert():
    return AutoModelForCausalLM.from_config(
        BertConfig(
            vocab_size=23, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    )


def t5():
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=23, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (bert, "sees later places"),
        (t5, "encoder-decoder"),
        (lambda: AutoModel.from_config(gpt2().config), "has no language-model head"),
        (lambda: gpt2(22), "vocabulary of 22 has fewer tokens than the 23"),
        (lambda: gpt2(n_positions=5), "makes 6 places of tokens, and the model's positions reach to 5"),
        (lambda: ICLModel.from_backbone(None, Task(TaskConfig(bank=SYMBOLIC)).bank), 'form to "vectors"'),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_that_cannot_be_asked_in_tokens(task, make, text):
    with pytest.raises(ConfigError) as error:
        task.check_model(make())
    assert text in str(error.value), str(error.value)


def test_a_bare_language_model_is_refused_where_the_task_gives_vectors():
    with pytest.raises(ConfigError, match="Wrap it: ICLModel.from_backbone"):
        Task(TaskConfig(bank=GAUSSIAN)).check_model(gpt2())
