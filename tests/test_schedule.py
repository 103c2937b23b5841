"""When a model is measured."""

import pytest

from hf_icl.errors import ConfigError
from hf_icl.training.schedule import Schedule


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (Schedule(every=4), [0, 4, 8, 12]),
        (Schedule(steps=(3, 5)), [0, 3, 5]),
        (Schedule(per_decade=2), [0, 1, 3, 10]),
    ],
)
def test_due_steps(schedule, due):
    assert [step for step in range(13) if schedule.is_due(step)] == due


def test_a_geometric_schedule_is_even_on_a_log_axis():
    due = [step for step in range(1, 100_001) if Schedule(per_decade=5).is_due(step)]
    ratios = [b / a for a, b in zip(due, due[1:], strict=False) if a >= 100]
    assert all(abs(ratio - 10**0.2) < 0.02 for ratio in ratios)
    assert due[-1] == 100_000


def test_an_early_grid_is_there_while_it_is_finer():
    schedule = Schedule(every=250, early=10)
    due = [step for step in range(3001) if schedule.is_due(step)]
    assert {1, 2, 10, 126, 158, 794, 1000} <= set(due) and set(range(0, 3001, 250)) <= set(due)
    assert all(step % 250 == 0 for step in due if step > 1000)  # 1,000 · 10^0.1 is 259 further
    assert schedule.count(3000) == len(due) and schedule.count(90) == len([s for s in due if s < 90]) + 1


@pytest.mark.parametrize(
    "fields", [{"steps": [1], "early": 3}, {}, {"every": 3, "per_decade": 2}, {"every": 0}, {"steps": (-1,)}]
)
def test_bad_schedules_are_refused(fields):
    with pytest.raises(ConfigError):
        Schedule(**fields)
