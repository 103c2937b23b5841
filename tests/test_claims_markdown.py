"""What came of claims as Markdown: all of them, as they came out, from `claims.json` alone."""

import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hf_icl.errors import RunError
from hf_icl.experiments.claim import list_claims, load_claim
from hf_icl.experiments.markdown import list_lines, shrink, write_markdown
from tests.programs import ROOT

CRITERION = {
    "that": "it falls", "words": "x: below 1 | 2", "verdict": "holds", "told": "0.2", "told_seeds": "3 seeds",
    "numbers": {"0": 0.1, "1": 0.2, "2": 0.3},
}  # fmt: skip
CLAIM = {
    "id": "fall", "title": "A fall", "statement": "It falls.", "source": "ours", "verdict": "holds",
    "leaning": None, "why": "every criterion holds", "criteria": [CRITERION], "fixed": "2026-01-01",
    "digest": "d" * 64, "evidence": {"began": "2026-01-02", "fixed_at": None}, "n_runs": 3,
    "run_commits": ["c" * 40], "seeds": [0, 1, 2], "emerged": {"base": "3 of 3"}, "base": "fast",
    "differs": "", "settings": {"base": {}, "wide": {"a.b": 2}},
}  # fmt: skip


def make_folder(folder, *claims):
    document = {
        "scale": "laptop", "wall_seconds": 125.0, "hf_icl_version": "0.2.0", "claims": list(claims),
        "intervals": {"of": "means", "method": "bootstrap", "correction": "none"}, "verdicts": {},
    }  # fmt: skip
    (folder / "figures").mkdir(parents=True)
    (folder / "claims.json").write_text(json.dumps(document))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(folder / "figures/fall.png")
    return folder


def test_each_claim_is_told_as_it_came_out(tmp_path):
    bare = CLAIM | {
        "n_runs": 0,
        "evidence": None,
        "verdict": "undecided",
        "why": "not run yet",
        "emerged": {},
    }
    bare["criteria"] = [
        CRITERION | {"numbers": {}, "verdict": "undecided", "told": "–", "told_seeds": "0 seeds"}
    ]
    leaning = CLAIM | {"id": "open", "verdict": "undecided", "leaning": "does not hold", "why": "too few"}
    refused = CLAIM | {"id": "changed", "verdict": "refused", "why": "it was changed", "criteria": []}
    folder = make_folder(tmp_path / "claims", CLAIM, bare | {"id": "bare"}, leaning, refused)
    text = write_markdown(folder, tmp_path / "docs/page.md").read_text("utf-8")
    assert "holds: 1, not run yet: 1, undecided: 1, refused: 1. Training took 2:05" in text
    assert "| [A fall](#fall) | **holds** | every criterion holds | 3 | 3 |" in text
    assert "| [A fall](#bare) | **not run yet** | | 0 | 0 |" in text
    assert (
        "**undecided** (so far it does not hold): too few." in text and "**refused**: it was changed." in text
    )
    assert "| it falls: x: below 1 \\| 2 | holds | 0.2 | 3 seeds |" in text
    assert "- Arm wide: `a.b=2`." in text and f"of the code at commit `{'c' * 10}`" in text
    assert (
        re.findall(r"!\[.*?\]\((.*?)\)", text) == ["page/fall.png"]
        and (tmp_path / "docs/page/fall.png").exists()
    )


def test_the_same_file_gives_the_same_bytes(tmp_path):
    folder = make_folder(tmp_path / "claims", CLAIM)
    first, second = (write_markdown(folder, tmp_path / name / "page.md") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a/page/fall.png").read_bytes() == (tmp_path / "b/page/fall.png").read_bytes()
    assert (tmp_path / "a/page/claims.json").read_bytes() == (folder / "claims.json").read_bytes()


def test_a_small_figure_looks_the_same():
    image = np.full((60, 80, 3), 255, np.uint8)
    image[20:30], image[:, 40] = (0, 114, 178), (213, 94, 0)
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    small = np.asarray(Image.open(io.BytesIO(shrink(png.getvalue()))).convert("RGB"), int)
    assert np.abs(small - image).max() <= 4


def test_a_folder_without_claims_is_told(tmp_path):
    with pytest.raises(RunError, match="holds no judged claims .* hf-icl reproduce"):
        write_markdown(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_the_page_in_the_documentation_has_every_claim_and_figure():
    page = ROOT / "docs/reproduction.md"
    text = page.read_text("utf-8")
    for name in list_claims():
        file = load_claim(name)
        assert f"## {file.claim.title} {{#{name}}}" in text and file.digest[:12] in text
    assert all((page.parent / path).exists() for path in re.findall(r"!\[.*?\]\((.*?)\)", text))


def test_the_page_in_the_documentation_says_what_its_numbers_say():
    """Neither is edited by hand: the page is what `hf-icl claims write` makes of the numbers beside it."""
    page = ROOT / "docs/reproduction.md"
    document = json.loads((page.with_suffix("") / "claims.json").read_text())
    shown = {path.stem: f"reproduction/{path.name}" for path in page.with_suffix("").glob("*.png")}
    lines = list_lines(document, shown, "reproduction/claims.json")
    assert page.read_text("utf-8") == "".join(f"{line}\n" for line in lines)
    counts = Counter(claim["verdict"] for claim in document["claims"] if claim["n_runs"])
    told = (
        f"Of {counts.total()} claims of the literature that were trained at this scale, their criteria fixed "
        f"beforehand, {counts['holds']} hold, {counts['does not hold']} do not"
    )
    assert told in (ROOT / "docs/index.md").read_text("utf-8").replace("\n", " ")
