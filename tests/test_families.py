"""Any causal language model: each row of docs/families.md is proven here by training."""

import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_icl.models import ICLModel
from tests.families import FAMILIES, tiny_config
from tests.family_proof import make_task, prove
from tests.programs import ROOT

ALWAYS = {
    "GPT-2",
    "GPT-NeoX",
    "Llama",
    "Mistral",
    "Qwen3",
    "Gemma 3",
    "Phi",
    "OLMo 2",
    "OPT",
    "BLOOM",
    "Falcon",
    "Mamba",
    "BERT",
}
TABLE = (ROOT / "docs/families.md").read_text()


def mark(family):
    return family if family in ALWAYS else pytest.param(family, marks=pytest.mark.slow)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # the families' own
@pytest.mark.parametrize("family", [mark(family) for family in FAMILIES])
def test_family(tmp_path, family):
    """What other versions of transformers generate and pad may differ from the table; what trains may not."""
    if FAMILIES[family][0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[family][0]}")
    transformers.set_seed(0)
    row = prove(family, tmp_path)
    row.losses = ""
    if f"transformers {transformers.__version__}," not in TABLE:
        row.generate = row.left_padding = row.right_padding = row.heads = ""
    proven = row.write().rstrip(" |")
    assert proven in TABLE, "write the table anew: python -m tests.family_proof docs/families.md"


def test_the_table_names_every_family():
    assert all(f"| {family} | {model_type} |" in TABLE for family, (model_type, _) in FAMILIES.items())


def test_the_answer_would_show_in_a_bidirectional_model():
    """The twin of the leakage check by gradients: in a model that looks ahead it finds something."""
    from tests.family_proof import check_gradients

    task = make_task("vectors")
    model = ICLModel.from_backbone(tiny_config("BERT", 32), task.bank, n_context=2)
    with pytest.raises(AssertionError):
        check_gradients(task, model.eval())
