"""The budget of a run: counted on its own model, task and schedule, none of which takes memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from hf_icl.banks.bank import Bank
from hf_icl.banks.kinds import outline_bank
from hf_icl.errors import ConfigError
from hf_icl.models.build import build_model, count_saved_bytes
from hf_icl.models.groups import parameter_groups
from hf_icl.plan.memory import Memory, ModelBytes, replicated, sharded, size_model
from hf_icl.plan.meter import StepCost, leave_meta, measure_forward, measure_step, without_memory
from hf_icl.runs.config import RunConfig
from hf_icl.task.forms import TokenForm
from hf_icl.task.measuring import EVALUATION_BATCH
from hf_icl.task.phrases import PhraseForm
from hf_icl.task.task import Task
from hf_icl.training.config import TrainingConfig
from hf_icl.training.trainer import count_answer_places, keep_answers


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run will cost.

    Attributes:
        model: What the model is, such as "gpt2, 12 layers × 768".
        precision: "fp32", or "bf16" or "fp16" for mixed precision.
        checkpointing: Whether activations are computed anew in the backward pass.
        parameters: Of the whole model.
        groups: Trainable parameters by group; see `parameter_groups`.
        n_devices: Devices that share a step.
        batch_size: Sequences per step, over all devices.
        batch_per_device: Sequences that one device takes at a time.
        accumulation: Parts of a step.
        tokens_per_sequence: Places of a sequence: tokens, or vectors in their stead.
        steps: Optimizer steps.
        evaluations: How often the model is measured.
        evaluation_sequences: Sequences of one measurement, over all evaluators.
        flops_per_sequence: Forward and backward. Matrix products, convolutions and attention; a
            multiplication and an addition are 2; attention over all places, causal or not; with
            checkpointing, what is computed anew too.
        flops_per_evaluation: Forward over the sequences of all evaluators.
        activations: Bytes alive on one device after a forward pass in training.
        gradients: Bytes of all gradients.
        evaluation: Most bytes alive at once in an evaluation's forward pass, beside weights and optimizer
            state.
        memory: Bytes per device by part: "single" for one device, else "ddp" and "fsdp".
        checkpoint: Bytes of one checkpoint: weights (of LoRA the adapters alone) and optimizer state.
        saved: Bytes of the final model, likewise.
        n_checkpoints: Checkpoints that stay.
    """

    model: str
    precision: str
    checkpointing: bool
    parameters: int
    groups: Mapping[str, int]
    n_devices: int
    batch_size: int
    batch_per_device: int
    accumulation: int
    tokens_per_sequence: int
    steps: int
    evaluations: int
    evaluation_sequences: int
    flops_per_sequence: int
    flops_per_evaluation: int
    activations: int
    gradients: int
    evaluation: int
    memory: Mapping[str, Memory]
    checkpoint: int
    saved: int
    n_checkpoints: int

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(self.groups.values())

    @property
    def sequences(self) -> int:
        """Training sequences of the whole run."""
        return self.steps * self.batch_size

    @property
    def tokens(self) -> int:
        """Of all training sequences."""
        return self.sequences * self.tokens_per_sequence

    @property
    def flops_per_step(self) -> int:
        """Forward and backward over one step's sequences."""
        return self.flops_per_sequence * self.batch_size

    @property
    def flops_training(self) -> int:
        """Of all steps."""
        return self.flops_per_step * self.steps

    @property
    def flops_evaluation(self) -> int:
        """Of all measurements."""
        return self.flops_per_evaluation * self.evaluations

    @property
    def flops(self) -> int:
        """Of the whole run."""
        return self.flops_training + self.flops_evaluation

    @property
    def disk(self) -> int:
        """Bytes of the checkpoints that stay and of the final model."""
        return self.n_checkpoints * self.checkpoint + self.saved

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, sums included."""
        sums = [name for name, value in vars(Budget).items() if isinstance(value, property)]
        memory = {
            name: dataclasses.asdict(part) | {"total": part.total} for name, part in self.memory.items()
        }
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in sums} | {"memory": memory}


def estimate(config: RunConfig, n_devices: int = 1) -> Budget:
    """Count what a run will cost, without allocating its model or drawing its exemplars.

    The run's own model is built of tensors without memory, takes one step and one forward pass of an
    evaluation, and every operation is counted. Sizes and FLOPs on one device are thus those of the real step
    (on a CPU, from which GPU kernels differ in scratch memory and in what mixed precision keeps in 32 bits);
    how DDP and FSDP divide them is worked out, see `hf_icl.plan.memory`. Steps, evaluations and checkpoints
    follow from the config.

    Args:
        config: The run; `training.batch_size` sequences make a step, whatever the number of devices.
        n_devices: Devices that share it.

    Raises:
        ConfigError: If the run could not be made, a step cannot be shared evenly, or its cost cannot be
            counted.

    >>> from hf_icl.runs.config import load_config
    >>> budget = estimate(load_config("gpt2-2x64"))
    >>> budget.parameters, budget.sequences, budget.memory["single"].parameters
    (112480, 2304000, 449920)
    """
    training = config.training
    share = _share(training, n_devices)
    task = Task(config.task, seed=config.seed, bank=outline_bank(config.task.bank, seed=config.seed))
    last = training.steps
    n_checkpoints = -(-last // training.checkpoint_every)
    return Budget(
        **_count(config, task, share),
        n_devices=n_devices,
        batch_size=training.batch_size,
        batch_per_device=share.batch_size,
        accumulation=share.accumulation,
        precision=share.precision,
        checkpointing=share.checkpointing,
        steps=last,
        evaluations=config.evaluate.count(last),
        evaluation_sequences=config.task.n_eval_sequences * len(task.specs),
        n_checkpoints=min(n_checkpoints, training.keep_checkpoints or n_checkpoints),
    )


@dataclasses.dataclass(frozen=True)
class _Share:
    """What one device does of a step at a time."""

    n_devices: int
    batch_size: int
    accumulation: int
    precision: str
    checkpointing: bool

    @property
    def dtype(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)


def _share(training: TrainingConfig, n_devices: int) -> _Share:
    """Read what `TrainingArguments` decide about a step."""
    arguments = training.arguments
    accumulation = arguments.get("gradient_accumulation_steps", 1)
    if training.batch_size % (n_devices * accumulation):
        rule = f"{n_devices} devices × {accumulation} accumulated parts must share a step's sequences evenly"
        hint = f"Take {max(1, training.batch_size // (n_devices * accumulation)) * n_devices * accumulation}."
        raise ConfigError("training.batch_size", training.batch_size, rule, hint)
    optimizer = arguments.get("optim", "adamw_torch")
    if not str(optimizer).startswith("adamw_torch"):
        rule = "a plan knows the state of AdamW alone"
        raise ConfigError("training.arguments.optim", optimizer, rule, "Leave it out.")
    half = [name for name in ("bf16", "fp16") if arguments.get(name)]
    return _Share(
        n_devices=n_devices,
        batch_size=training.batch_size // n_devices // accumulation,
        accumulation=accumulation,
        precision=half[0] if half else "fp32",
        checkpointing=any(arguments.get(f"{kind}_checkpointing") for kind in ("gradient", "activation")),
    )


def _count(config: RunConfig, task: Task, share: _Share) -> dict[str, Any]:
    """Build the run's model without memory, let it take a step and answer each evaluator;
    return what that cost."""
    if isinstance(task.form, PhraseForm):
        rule = "its prompts differ in length, and a plan counts those of one length"
        hint = "Run a few steps instead, or plan with a bank of tokens."
        raise ConfigError("task.bank", task.bank.name, rule, hint)
    batch = task.train_sampler.draw(0, share.batch_size)
    n_asked = config.task.n_eval_sequences
    asked = {name: task.sampler(name).draw(0, min(n_asked, EVALUATION_BATCH)) for name in task.specs}
    asked = {questions.labels.shape[1]: questions for questions in asked.values()}  # one of each length
    bank_bytes = task.bank.nbytes
    n_places = None
    if isinstance(task.form, TokenForm):
        n_places = count_answer_places(task.encode(batch)["labels"])
    model = _outline_adapted(config, task) if config.model.lora is not None else None
    with without_memory():
        task.bank = _empty(task.bank)
        if model is None:
            model = build_model(config.model, task, seed=config.seed, weights=False)
        else:
            leave_meta(model)
        with _explain_data_dependence(model):
            if share.checkpointing:
                _recompute_activations(model)
            cost = measure_step(
                model,
                lambda: keep_answers(model, task.encode(batch), n_places),
                accumulation=share.accumulation,
                dtype=share.dtype,
            )
            answers = {
                length: measure_forward(
                    model, lambda batch=batch: task.form.predict(task.bank, model, batch), dtype=share.dtype
                )
                for length, batch in asked.items()
            }
        n_tokens = _count_tokens(model, task.encode(batch))
        sizes = size_model(model, _measure_optimizer(model))
        saved = count_saved_bytes(model)
        stored = saved if config.model.lora is not None else sizes.weights
    n_forward = len(next(iter(asked.values()))) if asked else 1
    flops = sum(answers[1 + specs[0].n_context][0] for specs in task.specs.values())
    peak = max((peak for _, peak in answers.values()), default=0)
    return {
        "model": _describe(model),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "groups": _count_groups(model),
        "tokens_per_sequence": n_tokens,
        "flops_per_sequence": cost.flops // share.batch_size,
        "flops_per_evaluation": flops * n_asked // n_forward,
        "activations": cost.activations,
        "gradients": sizes.gradients,
        "evaluation": peak,
        "memory": _divide(sizes, cost, peak, bank_bytes, share),
        "checkpoint": stored + sizes.optimizer,
        "saved": saved,
    }


def _outline_adapted(config: RunConfig, task: Task) -> nn.Module:
    """Return a model with adapters on torch's `meta` device: peft moves them about as it puts them in, which
    tensors without memory do not bear."""
    with torch.device("meta"):
        return build_model(config.model, task, seed=config.seed, weights=False)


def _divide(
    sizes: ModelBytes, cost: StepCost, evaluation: int, bank: int, share: _Share
) -> dict[str, Memory]:
    if share.n_devices == 1:
        return {"single": replicated(sizes, cost, evaluation, bank, buckets=False)}
    return {
        "ddp": replicated(sizes, cost, evaluation, bank, buckets=True),
        "fsdp": sharded(
            sizes,
            cost,
            evaluation,
            bank,
            n_devices=share.n_devices,
            accumulation=share.accumulation,
            half=share.dtype is not None,
        ),
    }


def _empty(bank: Bank) -> Bank:
    """Return the bank with its exemplars replaced by ones without memory."""
    kept = {name: getattr(bank, name) for name in ("rows", "data", "variants")}
    empty = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype)
        for name, tensor in kept.items()
        if tensor is not None
    }
    return dataclasses.replace(bank, **empty)


def _recompute_activations(model: nn.Module) -> None:
    """Switch activation checkpointing on, as the Trainer does; transformers renamed it on the way to 6.0."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    try:
        next(getattr(model, name) for name in names if hasattr(model, name))()
    except ValueError as error:
        rule = f"this model cannot compute activations anew ({error})"
        raise ConfigError("training.arguments.gradient_checkpointing", True, rule, "Leave it out.") from error


@contextlib.contextmanager
def _explain_data_dependence(model: nn.Module) -> Iterator[None]:
    """Say in one sentence that some models compute more or less by the values that they see."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        rule = f"what it computes depends on its input, so it cannot be counted without running it ({error})"
        raise ConfigError("model.backbone", _describe(model), rule) from error


def _measure_optimizer(model: nn.Module) -> int:
    """Let AdamW take a step on the gradients that are there; return the bytes that it keeps."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)  # few operations, on many tensors each
    optimizer.step()
    return sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())


def _count_tokens(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    return inputs["input_ids"].shape[1] if "input_ids" in inputs else model.config.n_places


def _count_groups(model: nn.Module) -> dict[str, int]:
    counts = {
        group: sum(model.get_parameter(name).numel() for name in names)
        for group, names in parameter_groups(model).items()
    }
    return {group: count for group, count in counts.items() if count}


def _describe(model: nn.Module) -> str:
    config = getattr(model.config, "backbone", model.config)
    return f"{config.model_type}, {config.num_hidden_layers} layers × {config.hidden_size:,}"
