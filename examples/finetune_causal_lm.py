"""Fine-tune any causal language model on few-shot sequences of its own tokens, and watch ICL against IWL.

    python examples/finetune_causal_lm.py MODEL_ID --steps 2000

MODEL_ID is an id on the Hub or a folder. Nothing is wrapped: a stock `Trainer`, transformers' own collator.
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from hf_icl import Task, TaskConfig, TransienceCallback

parser = argparse.ArgumentParser(description="Fine-tune any causal language model on its own tokens.")
parser.add_argument("model_id", help="an id on the Hub, or a folder")
parser.add_argument("--output", default="runs/finetune")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument(
    "--classes", type=int, default=200, help="classes of ten near neighbours in the vocabulary"
)
args = parser.parse_args()

# Classes of tokens whose embeddings lie close together, and label tokens apart from them.
bank = {"kind": "vocabulary", "source": args.model_id, "n_classes": args.classes, "n_exemplars": 10}
bank |= {"n_holdout_classes": args.classes // 10, "n_labels": 32}
task = Task(TaskConfig(bank=bank, train={"n_context": 4, "burst": 1}), progress=True)

trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(args.model_id),
    args=TrainingArguments(
        args.output,
        max_steps=args.steps,
        per_device_train_batch_size=32,
        learning_rate=3e-4,
        save_steps=args.steps,
        report_to="none",
    ),
    train_dataset=task.dataset(args.steps * 32),
    processing_class=AutoTokenizer.from_pretrained(args.model_id),
)
trainer.add_callback(TransienceCallback(task, schedule=max(1, args.steps // 20), log=trainer.log))
trainer.train()
