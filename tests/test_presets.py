"""Presets: every one loads, and the fine-tuning one takes its classes from the model that is fine-tuned."""

import pytest

from hf_icl.errors import ConfigError
from hf_icl.runs.config import load_config
from hf_icl.runs.presets import list_presets


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads_and_says_what_it_is(name):
    assert load_config(name).training.steps > 0
    assert len(list_presets()[name]) > 20


def test_classes_come_from_the_vocabulary_of_the_model_that_is_fine_tuned():
    assert load_config("finetune").task.bank.source == load_config("finetune").model.pretrained
    mine = load_config("finetune", ["model.pretrained=me/mine", "model.revision=step-5"])
    assert (mine.task.bank.source, mine.task.bank.revision) == ("me/mine", "step-5")
    other = load_config("finetune", ["model.pretrained=me/mine", "task.bank.source=you/yours"])
    assert other.task.bank.source == "you/yours"
    assert mine.replace(seed=3).task.bank.source == "me/mine"
    with pytest.raises(
        ConfigError, match=r"task.bank.source = None: .* Set it, or model.pretrained for both"
    ):
        load_config("finetune", ["model.pretrained=null"])
