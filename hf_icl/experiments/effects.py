"""What criteria take of models some of whose heads are ablated, measured once a run is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_icl.circuits.ablated import Ablation
from hf_icl.circuits.effects import measure_effects
from hf_icl.circuits.rows import make_effect_row
from hf_icl.experiments.claim import Claim
from hf_icl.files import write_whole
from hf_icl.runs.folder import CIRCUITS, EFFECTS_FILE, read_circuits
from hf_icl.runs.run import Run


def add_effects(claim: Claim, folders: Mapping[tuple[str, int], Path]) -> None:
    """Measure what a claim's criteria take of ablated heads, of each finished run's last model.

    What `hf-icl circuits` has measured counts, and reports of the run show what is added.

    Args:
        claim: Whose criteria are looked at.
        folders: Of the runs, by arm and seed; those that diverged are left alone.
    """
    for (arm, _), folder in folders.items():
        wanted = [term.under for term in claim.terms if term.arm == arm and term.under is not None]
        if wanted and (run := Run.open(folder)).is_finished:
            _add(run, wanted)


def _add(run: Run, wanted: Sequence[Ablation]) -> None:
    step, rows = run.history.last_step, read_circuits(run.folder / CIRCUITS).get("effects", [])
    there = [effect for row in rows if row["step"] == step for effect in row["effects"]]
    known = [effect["change"] for effect in there]
    missing = {one.describe(): one for one in wanted if one.to_dict() not in known}
    if not missing:
        return
    row = make_effect_row(step, missing, measure_effects(run.build_task(), run.load_model(), missing))
    kept = [effect for effect in there if effect["name"] not in {one["name"] for one in row["effects"]}]
    row["effects"] += kept
    rows = [*(one for one in rows if one["step"] != step), row]
    lines = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in rows)
    (run.folder / CIRCUITS).mkdir(exist_ok=True)
    write_whole(run.folder / CIRCUITS / EFFECTS_FILE, lines.encode())
