"""Classes from a model's own vocabulary: embeddings read, tokens grouped, cached, shown and reported."""

import http.server
import json
import os
import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_icl.banks import VocabularyConfig, load_bank, read_embeddings
from hf_icl.banks.grouping import group_neighbours
from hf_icl.banks.tokenizer import find_prefix, name_tokens
from hf_icl.banks.vocabulary import read_cached
from hf_icl.data import load_dataset
from hf_icl.data.config import parse_arguments
from hf_icl.errors import BankError, ConfigError
from hf_icl.history.record import RunRecord
from hf_icl.report import render_card
from hf_icl.report.analysis import analyse
from hf_icl.report.page import render_page
from hf_icl.runs.config import RunConfig
from hf_icl.runs.folder import RUN_FILE
from hf_icl.runs.run import Run
from hf_icl.task.config import TaskConfig
from hf_icl.task.show import render_sequences
from hf_icl.task.task import Task

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2}
FAMILIES = {
    "gpt2": lambda size: transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2),
    "llama": lambda size: transformers.LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, **SMALL
    ),
    "gemma": lambda size: transformers.GemmaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, head_dim=8, num_key_value_heads=1, **SMALL
    ),
    "gpt_neox": lambda size: transformers.GPTNeoXConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, **SMALL
    ),
}
SPECIAL = ["<s>", "</s>", "<unk>"]
ODD = ["<unused0>", "[unused1]", "<|reserved_special_token_3|>", "<extra_id_0>", "<0x0A>"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ICL_CACHE", str(tmp_path / "cache"))


def make_model(family="llama", size=400, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family](size), dtype=dtype)


def make_tokenizer(n_words):
    """Words after special and odd tokens; a text is put between <s> and </s>."""
    words = [*SPECIAL, *ODD, *(f"w{i}" for i in range(n_words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def checkpoint(tmp_path):
    """A Llama of 400 rows with a tokenizer of 388 tokens, of which 380 are words."""
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer(380).save_pretrained(folder)
    return folder


def small(source, **settings):
    counts = {"n_classes": 20, "n_holdout_classes": 4, "n_exemplars": 5}
    return VocabularyConfig(**{"source": str(source), "tokens": "any", **counts, **settings})


def edit_table(folder, edit):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    edit(tensors["model.embed_tokens.weight"])
    safetensors.torch.save_file(tensors, path)


def spoil_weights(folder):
    """Make the weights unreadable while the files look as they did."""
    for path in folder.glob("*.safetensors"):
        before = path.stat()
        path.write_bytes(b"\xff" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestReadEmbeddings:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_reads_what_the_model_has(self, tmp_path, family, dtype):
        model = make_model(family, dtype=dtype)
        model.save_pretrained(tmp_path)
        table = read_embeddings(str(tmp_path))
        assert table.dtype == torch.float32
        assert torch.equal(table, model.get_input_embeddings().weight.float())

    def test_base_model_whose_names_lack_the_prefix(self, tmp_path):
        model = make_model("gpt2").transformer
        model.save_pretrained(tmp_path)
        assert torch.equal(read_embeddings(str(tmp_path)), model.wte.weight)

    @pytest.mark.integration
    def test_composite_model(self, tmp_path):
        config = transformers.LlavaConfig(
            text_config=FAMILIES["llama"](400),
            vision_config=transformers.CLIPVisionConfig(
                hidden_size=16, intermediate_size=16, image_size=8, patch_size=4, **SMALL
            ),
        )
        model = transformers.LlavaForConditionalGeneration(config)
        model.save_pretrained(tmp_path)
        assert torch.equal(read_embeddings(str(tmp_path)), model.get_input_embeddings().weight)

    def test_table_stored_under_the_name_of_the_head_tied_to_it(self, tmp_path):
        model = make_model("gpt2")
        model.save_pretrained(tmp_path)
        tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
        assert torch.equal(read_embeddings(str(tmp_path)), model.get_input_embeddings().weight)

    def test_only_the_shard_with_the_table_has_to_be_there(self, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        shards = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
        kept = shards["model.embed_tokens.weight"]
        others = set(shards.values()) - {kept}
        assert others
        for name in others:
            (tmp_path / name).unlink()
        assert torch.equal(read_embeddings(str(tmp_path)), model.get_input_embeddings().weight)
        (tmp_path / kept).unlink()
        with pytest.raises(BankError, match=f"{kept} is missing"):
            read_embeddings(str(tmp_path))

    def test_pickled_weights_are_refused(self, tmp_path):
        model = make_model()
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(BankError, match="Pickled weights .* never loaded.*save_pretrained"):
            read_embeddings(str(tmp_path))

    def test_quantised_table_is_refused(self, tmp_path):
        make_model().config.save_pretrained(tmp_path)
        table = torch.zeros(400, 16, dtype=torch.int8)
        safetensors.torch.save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
        with pytest.raises(BankError, match="stored as I8, quantised"):
            read_embeddings(str(tmp_path))

    def test_code_of_a_checkpoint_is_refused(self, tmp_path):
        own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
        (tmp_path / "config.json").write_text(json.dumps(own))
        (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
        with pytest.raises(BankError, match="code that comes with a checkpoint is never run"):
            read_embeddings(str(tmp_path))

    @pytest.mark.parametrize("source", ["/no/such/folder", "no/such/name/either"])
    def test_neither_folder_nor_name(self, source):
        with pytest.raises(BankError, match="neither a folder nor a name on the Hub"):
            read_embeddings(source)

    def test_a_folder_has_no_revision(self, checkpoint):
        with pytest.raises(BankError, match="has no revision 'v2'"):
            read_embeddings(str(checkpoint), "v2")

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(BankError, match="no config.json"):
            read_embeddings(str(tmp_path))

    def test_broken_weights(self, checkpoint):
        spoil_weights(checkpoint)
        with pytest.raises(BankError, match="model.safetensors cannot be read"):
            read_embeddings(str(checkpoint))

    def test_offline_says_so(self):
        with pytest.raises(BankError, match="cannot be had from the Hub"):
            read_embeddings("nobody/nothing")


def group_slowly(table, order, n_groups, size):
    """Brute force, one distance at a time."""
    free, groups = set(range(len(table))), []
    for seed in order:
        if seed in free and len(groups) < n_groups:
            others = sorted(free - {seed}, key=lambda row: ((table[row] - table[seed]) ** 2).sum())
            groups.append([int(seed), *others[: size - 1]])
            free -= set(groups[-1])
    return groups


class TestGrouping:
    @pytest.mark.integration
    @pytest.mark.parametrize(("n_groups", "size"), [(60, 5), (20, 30), (600, 1), (300, 2)])
    def test_agrees_with_brute_force(self, n_groups, size):
        generator = np.random.default_rng(size)
        table = generator.standard_normal((600, 3)).astype(np.float32)
        order = generator.permutation(600)
        slow = group_slowly(table.astype(np.float64), order, n_groups, size)
        assert group_neighbours(table, order, n_groups, size).tolist() == slow

    def test_finds_planted_clusters(self):
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((40, 8)).repeat(7, axis=0)
        where = generator.permutation(280)
        table = np.empty((280, 8), np.float32)
        table[where] = centres + 0.01 * generator.standard_normal((280, 8))
        groups = group_neighbours(table, generator.permutation(280), 40, 7)
        planted = {frozenset(cluster) for cluster in where.reshape(40, 7).tolist()}
        assert {frozenset(group) for group in groups.tolist()} == planted

    def test_groups_do_not_depend_on_later_ones(self):
        generator = np.random.default_rng(1)
        table = generator.standard_normal((500, 4)).astype(np.float32)
        order = generator.permutation(500)
        few, many = (group_neighbours(table, order, count, 4) for count in (30, 120))
        assert np.array_equal(few, many[:30])


def make_bpe(words, pre_tokenizer, decoder, template=None):
    """A tokenizer of whole words, as byte-level and SentencePiece vocabularies spell them."""
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")


class TestTokens:
    def test_byte_level_tokens_show_their_spaces_and_nothing_comes_first(self):
        tokenizer = make_bpe(
            ["<s>", "a", "Ġcat", "cat", "Ċ"],
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        assert name_tokens(tokenizer, [2, 3, 4]) == {2: " cat", 3: "cat", 4: "\n"}
        assert find_prefix(tokenizer) == ()

    def test_sentence_piece_tokens_and_a_start_that_is_also_the_end(self):
        decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        words = ["<s>", "▁a", "▁cat", "cat"]
        tokenizer = make_bpe(words, pre_tokenizers.Metaspace(), decoder, "<s> $A <s>")
        assert name_tokens(tokenizer, [2, 3]) == {2: " cat", 3: "cat"}
        assert find_prefix(tokenizer) == (0,)


class TestVocabularyBank:
    def test_shapes_and_what_a_token_is(self, checkpoint):
        bank = load_bank(small(checkpoint))
        assert bank.kind == "ids" and bank.rows.shape == (24, 5) and bank.n_labels == 20
        assert bank.lookup(torch.tensor([3]), torch.tensor([2])) == bank.rows[3, 2]
        assert bank.vocabulary.size == 400
        assert bank.vocabulary.prefix == (0,)  # <s>, and not the </s> at the end
        token = int(bank.rows[3, 2])
        assert bank.vocabulary.names[token] == f" w{token - 8}" == bank.exemplar_names[3][2]

    @pytest.mark.parametrize("labels", [{}, {"n_labels": 7}, {"labels_per_class": 2}])
    def test_every_token_once_and_none_but_words(self, checkpoint, labels):
        bank = load_bank(small(checkpoint, **labels))
        used = [*bank.rows.flatten().tolist(), *bank.vocabulary.label_tokens.tolist()]
        assert len(bank.vocabulary.label_tokens) == bank.n_labels
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(8, 388))  # no special, odd or padding row

    def test_odd_rows_are_left_out(self, checkpoint):
        def edit(table):
            table[20] = 0
            table[21, 3] = float("nan")
            table[23] = table[22]
            table[24, 0] = float("inf")

        edit_table(checkpoint, edit)
        bank = load_bank(
            small(checkpoint, n_classes=70, n_labels=5)
        )  # 74 × 5 exemplars and 5 labels: all there are
        used = {*bank.rows.flatten().tolist(), *bank.vocabulary.label_tokens.tolist()}
        assert used == set(range(8, 388)) - {20, 21, 22, 23, 24}

    def test_seeds(self, checkpoint):
        config = small(checkpoint)
        first, other = load_bank(config), load_bank(config, seed=1)
        assert not torch.equal(first.rows, other.rows)
        assert not torch.equal(first.vocabulary.label_tokens, other.vocabulary.label_tokens)
        for path in Path(os.environ["HF_ICL_CACHE"]).rglob("*.safetensors"):
            path.unlink()
        again = load_bank(config.replace(seed=0), seed=5)
        assert torch.equal(first.rows, again.rows)
        assert torch.equal(first.vocabulary.label_tokens, again.vocabulary.label_tokens)

    def test_more_holdout_classes_leave_the_rest_as_it_is(self, checkpoint):
        few, many = (load_bank(small(checkpoint, n_holdout_classes=n)) for n in (2, 30))
        assert torch.equal(few.rows, many.rows[:22])
        assert torch.equal(few.vocabulary.label_tokens, many.vocabulary.label_tokens)

    def test_metric(self, checkpoint):
        """Two clusters of one direction at different lengths are one by angle and two by distance."""
        generator = torch.Generator().manual_seed(0)

        def edit(table):
            directions = torch.eye(16).repeat_interleave(22, 0)
            lengths = torch.tensor([1.0, 9.0]).repeat_interleave(11).repeat(16)[:, None]
            table[8:360] = directions * lengths + 0.001 * torch.randn(352, 16, generator=generator)
            table[360:] = 0

        edit_table(checkpoint, edit)

        def kinds(metric, divisor):
            config = small(checkpoint, metric=metric, n_classes=6, n_holdout_classes=0, n_labels=1)
            rows = load_bank(config).rows
            return {len(set(((row - 8) // divisor).tolist())) for row in rows}

        assert kinds("cosine", 22) == {1} and 2 in kinds("cosine", 11)
        assert kinds("euclidean", 11) == {1}
        spread = load_bank(small(checkpoint, n_classes=6, n_holdout_classes=0, n_labels=1)).facts["spread"]
        assert spread["within"] > 1  # in the table's own units: lengths count

    def test_spread_against_its_definition(self, checkpoint):
        bank = load_bank(small(checkpoint))
        table = read_embeddings(str(checkpoint)).double().numpy()
        for name, rows in (("spread", bank.rows[:20]), ("holdout_spread", bank.rows[20:])):
            groups = table[rows.numpy()]
            means = groups.mean(1)
            within = np.sqrt(
                np.mean([((x - m) ** 2).sum() for g, m in zip(groups, means, strict=True) for x in g])
            )
            between = np.sqrt(np.mean(((means - means.mean(0)) ** 2).sum(1)))
            expected = {"within": within, "between": between, "ratio": between / within}
            assert bank.facts[name] == pytest.approx(expected, rel=1e-5)

    def test_too_few_tokens(self, checkpoint):
        with pytest.raises(
            BankError, match=r"380 of its 400 tokens can be used, but 84 classes × 5 .* make 500\. Lower"
        ):
            load_bank(small(checkpoint, n_classes=80))

    def test_checkpoint_without_a_tokenizer(self, tmp_path):
        model = make_model(size=136)
        model.generation_config.eos_token_id = [1, 5]
        model.save_pretrained(tmp_path / "bare")
        bank = load_bank(small(tmp_path / "bare", n_holdout_classes=0, n_labels=33))
        used = {*bank.rows.flatten().tolist(), *bank.vocabulary.label_tokens.tolist()}
        assert used == set(range(136)) - {1, 2, 5}  # of the config: bos 1, eos 2
        assert bank.vocabulary.prefix == () and bank.vocabulary.names[17] == "⟨17⟩"

    def test_broken_tokenizer(self, checkpoint):
        (checkpoint / "tokenizer.json").write_text("{")
        with pytest.raises(BankError, match="its tokenizer cannot be loaded"):
            load_bank(small(checkpoint))

    def test_trains_and_answers_as_tokens(self, checkpoint):
        task = Task(
            TaskConfig(bank=small(checkpoint), train={"n_context": 4, "burst": 1}, n_eval_sequences=10)
        )
        batch = task.sampler().draw(0, 8)
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
        inputs = task.encode(batch)
        assert inputs["input_ids"][:, 0].eq(0).all()
        tokens = task.bank.rows[batch.class_ids, batch.exemplar_ids]
        assert torch.equal(inputs["input_ids"][:, 1::2], tokens)
        assert torch.isfinite(model(**inputs).loss)
        means, _ = task.measure(model)
        assert "icl/accuracy" in means

    def test_ids_are_refused_in_the_vectors_form(self, checkpoint):
        with pytest.raises(ConfigError, match="Set the bank's vectors to true"):
            Task(TaskConfig(bank=small(checkpoint), form="vectors"))


class TestVectors:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_same_groups_as_rows_of_the_table(self, tmp_path, dtype):
        make_model(dtype=dtype).save_pretrained(tmp_path / "model")
        tokens = load_bank(small(tmp_path / "model"))
        for _ in range(2):  # read from the checkpoint, then from the cache
            vectors = load_bank(small(tmp_path / "model", vectors=True))
            assert vectors.kind == "vectors" and vectors.shape == (16,) and vectors.vocabulary is None
            ids = torch.cartesian_prod(torch.arange(24), torch.arange(5)).unbind(1)
            table = make_model(dtype=dtype).get_input_embeddings().weight.float()
            assert torch.equal(vectors.lookup(*ids), table[tokens.lookup(*ids)])
            assert vectors.facts == tokens.facts and vectors.exemplar_names == tokens.exemplar_names
            spoil_weights(tmp_path / "model")

    def test_vectors_first_then_tokens(self, checkpoint):
        vectors = load_bank(small(checkpoint, vectors=True))
        spoil_weights(checkpoint)
        tokens = load_bank(small(checkpoint))
        assert tokens.exemplar_names == vectors.exemplar_names


class TestCache:
    def test_second_time_needs_no_weights(self, checkpoint):
        first = load_bank(small(checkpoint))
        spoil_weights(checkpoint)
        second = load_bank(small(checkpoint))
        assert torch.equal(first.rows, second.rows)
        assert first.vocabulary.names == second.vocabulary.names
        assert first.vocabulary.prefix == second.vocabulary.prefix and first.facts == second.facts

    @pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-9] + b"\x07" + b[-8:], lambda b: b""])
    def test_broken_file_is_made_again(self, checkpoint, caplog, damage):
        first = load_bank(small(checkpoint))
        (path,) = Path(os.environ["HF_ICL_CACHE"]).rglob("*.safetensors")
        path.write_bytes(damage(path.read_bytes()))
        second = load_bank(small(checkpoint))
        assert torch.equal(first.rows, second.rows)
        assert "broken" in caplog.text and read_cached(path) is not None

    def test_changed_checkpoint_is_grouped_again(self, checkpoint):
        first = load_bank(small(checkpoint))
        edit_table(checkpoint, lambda table: table.copy_(table[torch.randperm(400)]))
        assert not torch.equal(first.rows, load_bank(small(checkpoint)).rows)


class TestShown:
    def show(self, config, **options):
        console = Console(file=StringIO(), width=80)
        console.print(render_sequences(Task(TaskConfig(bank=config)), count=1, **options))
        return console.file.getvalue()

    def test_tokens(self, checkpoint):
        text = self.show(small(checkpoint))
        bank = load_bank(small(checkpoint))
        assert text.startswith("20 + 4 holdout classes × 5 tokens of model, neighbours by cosine; spread")
        batch = Task(TaskConfig(bank=small(checkpoint))).sampler().draw(0, 1)
        class_ids = batch.class_ids[0].tolist()
        for class_id in class_ids:
            assert f"class {class_id}: {' '.join(map(repr, bank.exemplar_names[class_id]))}" in text
        places = zip(class_ids, batch.exemplar_ids[0].tolist(), batch.labels[0].tolist(), strict=True)
        names, labels = bank.exemplar_names, bank.vocabulary.label_tokens
        words = [(names[c][e], bank.vocabulary.names[int(labels[k])]) for c, e, k in places]
        prompt = "".join(f"{x}{label}" for x, label in words[:-1]) + words[-1][0]
        assert f"prompt: ' <s>{prompt}' → {words[-1][1]!r}" in text
        assert f"answer {words[-1][1]!r}" in text
        assert max(map(len, text.splitlines())) <= 80

    def test_vectors(self, checkpoint):
        text = self.show(small(checkpoint, vectors=True))
        assert "class " in text and "' w" in text and "prompt" not in text


class TestReported:
    def test_run_and_report_tell_the_spread(self, checkpoint, tmp_path):
        config = RunConfig(task={"bank": small(checkpoint, vectors=True), "n_eval_sequences": 10})
        run = Run.create(config, tmp_path / "run")
        about = json.loads((run.folder / RUN_FILE).read_text())
        assert about["bank"]["spread"]["within"] > 0 and about["bank"]["n_exemplars"] == 5
        assert str(tmp_path) not in json.dumps(about["bank"])
        record = RunRecord("mine", {}, {"seed": 0}, [], {}, {}, about["bank"])
        analysis = analyse([record])
        assert analysis.document["runs"][0]["bank"] == about["bank"]
        told = f"spread within {about['bank']['spread']['within']:.3g}"
        assert told in render_card([record]) and told in render_page(analysis)

    def test_runs_made_before_the_bank_was_kept(self, tmp_path):
        run = Run.create(RunConfig(task={"bank": {"kind": "gaussian", "n_classes": 16}}), tmp_path / "run")
        about = {key: value for key, value in run.about.items() if key != "bank"}
        (run.folder / RUN_FILE).write_text(json.dumps(about))
        (run.folder / "history.jsonl").write_text('{"step": 0, "sequences": 0, "metrics": {}, "hits": {}}\n')
        record = Run.open(run.folder).record()
        assert record.bank == {} and "classes:" not in render_card([record])


def test_dataset_of_a_vocabulary(checkpoint):
    arguments = {"source": str(checkpoint), "tokens": "any", "n_classes": 20, "n_holdout_classes": 4}
    arguments["n_exemplars"] = 5
    rows = load_dataset("vocabulary", split="train", streaming=True, with_exemplars=True, **arguments)
    row, bank = next(iter(rows)), load_bank(small(checkpoint))
    places = zip(row["class_ids"], row["exemplar_ids"], strict=True)
    assert row["exemplars"] == [int(bank.rows[place]) for place in places]


def test_revision_is_not_the_one_of_load_dataset():
    config = parse_arguments("vocabulary", {"source": "me/tiny", "bank_revision": "v2"})
    assert config.task.bank.revision == "v2"
    with pytest.raises(ConfigError, match="revision = 'v2': unknown key"):
        parse_arguments("vocabulary", {"source": "me/tiny", "revision": "v2"})


READ_FROM_HUB = """
import sys, torch
from hf_icl.banks import VocabularyConfig, load_bank
config = VocabularyConfig(source="me/tiny", tokens="any", n_classes=20, n_holdout_classes=4, n_exemplars=5)
banks = [load_bank(config) for _ in range(2)]
torch.save([[bank.rows, dict(bank.facts), bank.vocabulary.prefix] for bank in banks], sys.argv[1])
"""


class Hub:
    """The few routes of a Hub that serves one model, and a list of what was asked for."""

    commit = "c0ffee" + 34 * "0"

    def __init__(self, folder):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                named = [name for name in hub.files if f"{name}" in body]
                hub.asked.append(("POST", self.path, None, 0))
                self.answer_json([hub.describe(name) for name in named])

            def do_GET(self):
                parts = self.path.partition("?")[0].strip("/").split("/")
                if "resolve" in parts:
                    self.answer_file(parts[-1])
                elif "tree" in parts:
                    self.answer_json([hub.describe(name) for name in hub.files])
                elif parts[:4] == ["api", "models", "me", "tiny"]:
                    siblings = [{"rfilename": name} for name in hub.files]
                    self.answer_json({"id": "me/tiny", "sha": hub.commit, "siblings": siblings, "tags": []})
                else:
                    self.send_error(404)

            def answer_json(self, value):
                self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

            def answer_file(self, name):
                if name not in hub.files:
                    return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                data, status = hub.files[name], 200
                headers = {"ETag": f'"{name}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
                if asked := self.headers.get("Range"):
                    first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                    data, status = data[first : last + 1], 206
                n_sent = 0 if self.command == "HEAD" else len(data)
                hub.asked.append((self.command, name, asked, n_sent))
                self.answer(status, data, headers)

            def answer(self, status, data, headers):
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def describe(self, name):
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": name}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class TestHub:
    def ask(self, programs, hub, tmp_path, offline):
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": offline,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        out = tmp_path / "out.pt"
        ended = programs.start_python("-c", READ_FROM_HUB, out, folder=ROOT, **variables).wait(120)
        assert ended.code == 0, ended.err
        return torch.load(out)

    @pytest.mark.integration
    def test_only_header_and_table_are_fetched(self, programs, checkpoint, tmp_path):
        make_model().save_pretrained(checkpoint, max_shard_size="20KB")
        (checkpoint / "model.safetensors").unlink(missing_ok=True)
        shards = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
        shard = shards["model.embed_tokens.weight"]
        local = load_bank(small(checkpoint))
        with Hub(checkpoint) as hub:
            found = self.ask(programs, hub, tmp_path, offline="0")
            weights = [
                entry for entry in hub.asked if entry[1].endswith(".safetensors") and entry[0] == "GET"
            ]
            data = hub.files[shard]
            n_header = int.from_bytes(data[:8], "little")
            first, last = json.loads(data[8 : 8 + n_header])["model.embed_tokens.weight"]["data_offsets"]
            start = 8 + n_header
            expected = [(0, 8), (8, start), (start + first, start + last)]
            assert weights == [("GET", shard, f"bytes={a}-{b - 1}", b - a) for a, b in expected]
        for rows, facts, prefix in (*found, *self.ask(programs, hub, tmp_path, offline="1")):
            assert torch.equal(rows, local.rows) and prefix == (0,)
            assert facts == local.facts | {"source": "me/tiny", "commit": hub.commit}
