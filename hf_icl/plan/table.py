"""A budget as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from hf_icl.plan.budget import Budget
from hf_icl.plan.pace import Pace
from hf_icl.task.measuring import EVALUATION_BATCH
from hf_icl.training.display import format_duration

PARTS = {
    "parameters": "parameters",
    "optimizer": "AdamW's two moments",
    "step": "activations, then gradients",
    "buckets": "gradient buckets",
    "gathered": "parts gathered whole",
    "bank": "exemplars",
}
COLUMNS = {"single": "1 device", "ddp": "DDP", "fsdp": "FSDP"}


def render_budget(
    budget: Budget, name: str, *, tflops: float | None = None, pace: Pace | None = None
) -> RenderableType:
    """Return a budget for the terminal, 80 columns wide.

    Args:
        budget: What to show.
        name: What it is a budget of.
        tflops: TFLOP/s that each device sustains, for hours; None says nothing of time.
        pace: What was timed on this machine.
    """
    return Group(
        f"[bold]{escape(name)}[/]: {budget.model}, {format_count(budget.parameters)} parameters",
        "",
        _render_counts(budget, tflops, pace),
        "",
        _render_memory(budget),
        *_list_remarks(budget),
    )


def _render_counts(budget: Budget, tflops: float | None, pace: Pace | None) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for title, text in _list_counts(budget, tflops, pace):
        table.add_row(title, text)
    return table


def _list_counts(budget: Budget, tflops: float | None, pace: Pace | None) -> Iterable[tuple[str, str]]:
    groups = sorted(budget.groups.items(), key=lambda item: -item[1])
    trained = "all" if budget.trainable == budget.parameters else f"{budget.trainable:,}"
    yield "parameters", f"{budget.parameters:,}, {trained} trained"
    yield "", ", ".join(f"{group} {format_count(count)}" for group, count in groups)
    tokens = budget.tokens_per_sequence
    yield "to run", f"{budget.steps:,} steps × {budget.batch_size:,} sequences × {tokens:,} tokens"
    yield "", f"{budget.sequences:,} sequences, {budget.tokens:,} tokens"
    yield "evaluations", f"{budget.evaluations:,} × {budget.evaluation_sequences:,} sequences"
    each = budget.flops_per_sequence / tokens / budget.parameters
    yield "FLOPs", f"{budget.flops_per_sequence:.3g} per sequence: {each:.1f} per token and parameter"
    yield "", f"{budget.flops_per_step:.3g} per step"
    share = budget.flops_evaluation / budget.flops
    yield "", f"{budget.flops:.3g} in all, {share:.0%} of them in evaluations"
    if tflops is not None:
        hours = budget.flops / (tflops * 1e12 * budget.n_devices) / 3600
        yield "time", f"{hours:,.3g} h at {tflops:g} TFLOP/s on each device (arithmetic alone)"
    if pace is not None:
        whole = format_duration(pace.tell_seconds(budget.steps, budget.evaluations))
        each = f"{pace.step_s:.3g} s a step, {pace.evaluation_s:.3g} s an evaluation"
        yield "time here", f"{whole} on one device of this machine: {each} (measured now)"
    kept = f"{budget.n_checkpoints:,} kept and the final model: {format_bytes(budget.disk)}"
    yield "disk", f"{format_bytes(budget.checkpoint)} per checkpoint; {kept}"


def _render_memory(budget: Budget) -> Table:
    devices = "one device" if budget.n_devices == 1 else f"each of {budget.n_devices} devices"
    parts = f" × {budget.accumulation} parts" if budget.accumulation > 1 else ""
    title = f"Memory of {devices}, {budget.batch_per_device:,} sequences at a time{parts}, {budget.precision}"
    table = Table(title, *(COLUMNS[name] for name in budget.memory), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part, words in PARTS.items():
        sizes = [getattr(memory, part) for memory in budget.memory.values()]
        if any(sizes):
            table.add_row(f"  {words}", *(format_bytes(size) if size else "–" for size in sizes))
    table.add_row("  [bold]total[/]", *(f"[bold]{format_bytes(m.total)}[/]" for m in budget.memory.values()))
    return table


def _list_remarks(budget: Budget) -> Iterable[str]:
    after = (
        f"{format_bytes(budget.activations)} of activations",
        f"{format_bytes(budget.gradients)} of gradients",
    )
    yield f"[dim]After the forward pass {after[0]}, after the backward pass {after[1]}.[/]"
    if budget.checkpointing:
        yield "[dim]Activations inside blocks are computed anew in the backward pass.[/]"
    if any(memory.step == budget.evaluation for memory in budget.memory.values()):
        size = format_bytes(budget.evaluation)
        yield f"[dim]Evaluations ask {EVALUATION_BATCH} sequences at a time and take more: {size}.[/]"
    yield "[dim]Not in it: what framework and driver take, and gaps of the allocator.[/]"


def format_count(number: float) -> str:
    """Return a number with three digits and k, M, B for thousands, millions, billions.

    >>> format_count(950), format_count(112_480), format_count(1_475_870_432)
    ('950', '112 k', '1.48 B')
    """
    return _scale(number, ("", " k", " M", " B"))


def format_bytes(size: float) -> str:
    """Return a size in decimal units.

    >>> format_bytes(6_200_000_000), format_bytes(999_999)
    ('6.20 GB', '1.00 MB')
    """
    return _scale(size, (" B", " kB", " MB", " GB", " TB"))


def _scale(number: float, units: tuple[str, ...]) -> str:
    power = min(len(units) - 1, int(math.log10(max(number, 1) * 1.0005) // 3))
    scaled = number / 1000**power
    digits = 0 if power == 0 else max(0, 2 - int(math.log10(scaled * 1.0005)))
    return f"{scaled:,.{digits}f}{units[power]}"
