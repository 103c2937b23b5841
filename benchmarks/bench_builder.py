"""Speed of the dataset builder: sequences per second prepared (to Arrow files) and streamed.

Example: OMP_NUM_THREADS=1 python benchmarks/bench_builder.py --count 2000000 --json rates.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import tempfile
import time
from pathlib import Path

import datasets
import torch

from hf_icl.data import HfIclSequences
from hf_icl.data.builder import open_tables


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2_000_000, help="training sequences to prepare")
    parser.add_argument("--stream", type=int, default=200_000, help="training sequences to stream")
    parser.add_argument("--classes", type=int, default=768, help="training classes of the bank")
    parser.add_argument("--context", type=int, default=4, help="exemplars before the query")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--num-proc", type=int, default=1, help="processes that prepare")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rates to a file")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    shape = {"n_classes": words.classes, "n_context": words.context, "n_eval_sequences": 1}
    results = {
        "prepared_per_s": measure_prepare(words.count, words.num_proc, shape),
        "streamed_rows_per_s": measure_rows(words.stream, shape),
        "streamed_numpy_batches_per_s": measure_batches(words.stream, shape, "numpy"),
        "streamed_arrow_batches_per_s": measure_batches(words.stream, shape, "arrow"),
    }
    if words.json:
        settings = {name: value for name, value in vars(words).items() if name != "json"}
        words.json.write_text(json.dumps({"settings": settings, "results": results}, indent=1))
    for name, rate in results.items():
        print(f"{name:30} {rate:12,.0f}")


@contextlib.contextmanager
def build(n_sequences: int, shape: dict[str, int]):
    """Give a builder whose cache is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        yield HfIclSequences(cache_dir=folder, config_name="gaussian", n_sequences=n_sequences, **shape)


def measure_prepare(n_sequences: int, num_proc: int, shape: dict[str, int]) -> float:
    """Return sequences per second of `download_and_prepare`, the bank being there."""
    with build(n_sequences, shape) as builder:
        open_tables(builder.config.settings)
        start = time.perf_counter()
        builder.download_and_prepare(num_proc=num_proc)
        return n_sequences / (time.perf_counter() - start)


def measure_rows(n_sequences: int, shape: dict[str, int]) -> float:
    """Return sequences per second streamed one by one, as dicts of lists."""
    with build(n_sequences, shape) as builder:
        open_tables(builder.config.settings)
        start = time.perf_counter()
        n_read = sum(1 for _ in builder.as_streaming_dataset(split="train"))
        return n_read / (time.perf_counter() - start)


def measure_batches(n_sequences: int, shape: dict[str, int], form: str) -> float:
    """Return sequences per second streamed in batches of 1,000."""
    with build(n_sequences, shape) as builder:
        open_tables(builder.config.settings)
        rows = builder.as_streaming_dataset(split="train").with_format(form)
        start = time.perf_counter()
        n_read = sum(len(batch["index"]) for batch in rows.iter(batch_size=1000))
        return n_read / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
