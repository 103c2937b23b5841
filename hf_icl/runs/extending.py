"""A run given more steps than it was made for, to the numbers of one that was made for them."""

from __future__ import annotations

from hf_icl.errors import ConfigError
from hf_icl.files import fill_whole
from hf_icl.history.origin import describe_origin
from hf_icl.locks import hold
from hf_icl.runs.folder import CARD_FILE, CONFIG_FILE, write_about
from hf_icl.runs.run import Run
from hf_icl.training.checkpoints import MANIFEST_FILE


def extend(run: Run, steps: int) -> Run:
    """Give a run, finished or not, more steps; training then goes on from its last checkpoint.

    No schedule of ours depends on the number of steps, so the further ones are those of a run that was made
    with so many. Its history may have one row more, of the step at which it ended before.

    Args:
        run: Of which the folder is rewritten: config and `run.json`, where earlier lengths are kept.
        steps: More than it has.

    Returns:
        The run as it is now, unfinished.

    Raises:
        ConfigError: If these are no more steps than it has.
        RunError: If another process is at work on it.
    """
    before = run.config.training.steps
    if steps <= before:
        rule = f"the run has {before} steps, and can only be given more"
        raise ConfigError("training.steps", steps, rule, "Make a new run for fewer.")
    config = run.config.replace(training=run.config.training.replace(steps=steps))
    origin = describe_origin(config.seed)
    earlier = [*run.about.get("extended", []), {"steps": before, "commit": origin["commit"]}]
    about = run.about | {
        "config": run.about["config"] | {"training": config.training.to_dict()},
        "extended": earlier,
    }
    with hold(run.folder):
        for name in (MANIFEST_FILE, CARD_FILE):  # first: it is no longer finished, whatever comes
            (run.folder / name).unlink(missing_ok=True)
        with fill_whole(run.folder, last=CONFIG_FILE, way_out="The run is as it was; try again.") as draft:
            write_about(draft, about)
    return Run(run.folder, config, about)
