"""ICL and IWL in a stock `Trainer` around any Hugging Face backbone. Seconds on a CPU; for the fade,
100 × the steps."""

from transformers import GPT2Config, Trainer, TrainingArguments

from hf_icl import ICLModel, Task, TransienceCallback

task = Task()  # Gaussian classes, four labelled exemplars in context, six evaluators
backbone = GPT2Config(n_layer=2, n_embd=64, n_head=8, n_positions=16)
model = ICLModel.from_backbone(backbone, task.bank, n_context=task.n_context)
args = TrainingArguments("runs/stock", max_steps=200, per_device_train_batch_size=64, learning_rate=1e-3)
trainer = Trainer(model, args, train_dataset=task.dataset(200 * 64), data_collator=task.collate)
callback = TransienceCallback(task, schedule=50, log=trainer.log)
trainer.add_callback(callback)
trainer.train()
callback.report("runs/stock/report")  # page, figure and numbers; see also callback.summary() and plot()
