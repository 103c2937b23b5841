"""The same fine-tuning on any number of devices: every one of them sees its share of the same sequences.

    accelerate launch --config_file examples/accelerate/multi_gpu.yaml examples/finetune_distributed.py
    MODEL_ID

Two processes on a CPU: torchrun --nproc_per_node 2 examples/finetune_distributed.py MODEL_ID --cpu. The batch
is one over all devices, so loss and history do not depend on how many there are.
"""

import argparse

from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from hf_icl import Task, TaskConfig, TransienceCallback

parser = argparse.ArgumentParser(description="Fine-tune any causal language model on any number of devices.")
parser.add_argument("model_id", help="an id on the Hub, or a folder")
parser.add_argument("--output", default="runs/finetune-distributed")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--batch", type=int, default=32, help="sequences per step, over all devices")
parser.add_argument(
    "--classes", type=int, default=200, help="classes of ten near neighbours in the vocabulary"
)
parser.add_argument("--cpu", action="store_true")
args = parser.parse_args()

processes = PartialState(cpu=args.cpu)
bank = {"kind": "vocabulary", "source": args.model_id, "n_classes": args.classes, "n_exemplars": 10}
bank |= {"n_holdout_classes": args.classes // 10, "n_labels": 32}
with processes.main_process_first():  # the grouping is cached: the main process makes it, the others read it
    task = Task(TaskConfig(bank=bank, train={"n_context": 4, "burst": 1}), progress=processes.is_main_process)

trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(args.model_id),
    args=TrainingArguments(
        args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch // processes.num_processes,
        learning_rate=3e-4,
        save_steps=args.steps,
        report_to="none",
        ddp_find_unused_parameters=False,
        use_cpu=args.cpu,
    ),
    train_dataset=task.stream(),
    processing_class=AutoTokenizer.from_pretrained(args.model_id),
)
trainer.add_callback(TransienceCallback(task, schedule=max(1, args.steps // 20), log=trainer.log))
trainer.train()
