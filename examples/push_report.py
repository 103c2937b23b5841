"""Train a small run with the library, publish it while it trains, and bring it back.

    hf auth login
    python examples/push_report.py USER/REPO

Private unless --public. Checkpoints become revisions: `from_pretrained(repo, revision="step-00000100")`.
"""

import argparse

from hf_icl import Run, load_config, write_report
from hf_icl.hub.publisher import Publisher, describe_progress, plan_training
from hf_icl.hub.pull import pull_run
from hf_icl.hub.target import Target

parser = argparse.ArgumentParser(description="Train a small run and publish it on the Hub.")
parser.add_argument("repo", help="where to, as USER/REPO")
parser.add_argument("--output", default="runs/published")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--public", action="store_true")
args = parser.parse_args()

every = max(1, args.steps // 5)
settings = [f"training.steps={args.steps}", f"training.checkpoint_every={every}", f"evaluate={every}"]
run = Run.create(load_config("default", settings), args.output)
target = Target(repo_id=args.repo, public=args.public, selection={"steps": "all"})
target.save(run.folder)  # so that `hf-icl push` and `hf-icl resume` know where to

plan = plan_training(run, target)
print(plan)  # where it goes, who will see it, how much it is: before the first byte goes out
with Publisher(run, plan) as publisher:
    run.train(callbacks=[publisher.callback])
    write_report([run.record()], run.folder / "report")
    progress = publisher.close()
print(describe_progress(run, target, progress))

pulled = pull_run(args.repo, f"{args.output}-pulled")
print("The history on the Hub is that on disk:", pulled.history.rows == run.history.rows)
