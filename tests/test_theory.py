"""Small models of theory: their equations, and that a fit finds again what made the curves."""

import numpy as np
import pytest

from hf_icl.errors import ConfigError
from hf_icl.theory import Fit, Pair, Race, Strategies, fit_model, read_pair
from hf_icl.theory.fitting import integrate

STEPS = np.arange(0, 8001, 100.0)


def strategies_loss(model, state):
    """Return the loss of the toy model, with the rates of a and d put into their units."""
    a, b, c, d = state
    one, two = (1 - a * b * c) ** 2 / 2, (1 - d * b * c) ** 2 / 2
    return (one + model.floor) * two + model.competition * (a * d) ** 2 / 2


def test_strategies_go_down_the_slope_of_their_loss():
    rng = np.random.default_rng(0)
    model = Strategies(rate=0.5, icl_rate=2.0, iwl_rate=0.25, floor=0.3, competition=0.7)
    for _ in range(50):
        state, tiny = rng.uniform(0.1, 1.2, size=4), 1e-6
        slopes = [
            (strategies_loss(model, state + step) - strategies_loss(model, state - step)) / (2 * tiny)
            for step in np.eye(4) * tiny
        ]
        expected = -0.5 * np.array([2.0, 1, 1, 0.25]) * slopes
        np.testing.assert_allclose(model.move(state.tolist()), expected, rtol=1e-5, atol=1e-8)


def test_a_race_without_memory_is_logistic():
    model = Race(icl_rate=0.01, iwl_rate=1e-12, ceiling=1e-12, fading=1e-12, start=0.02)
    icl, iwl = integrate(model, STEPS[:20])
    np.testing.assert_allclose(icl, 1 / (1 + 49 * np.exp(-0.01 * STEPS[:20])), rtol=1e-4)
    assert (iwl < 1e-6).all()


@pytest.mark.parametrize("model", [Strategies(), Race(fading=4e-3, iwl_rate=6e-4)])
def test_both_show_transience_and_do_not_depend_on_where_they_are_read(model):
    pair = Fit(model, (1.0, 1.0), 0.0).course(STEPS)
    found = pair.find()
    assert found["onset"] < found["peak"] < found["half_decay"] and pair.iwl[-1] > 0.7
    np.testing.assert_allclose(integrate(model, STEPS[3:]), integrate(model, STEPS)[:, 3:], atol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize(
    "model", [Strategies(rate=0.012, iwl_rate=0.07), Race(icl_rate=8e-3, fading=4e-3, iwl_rate=4e-4)]
)
def test_a_fit_to_the_whole_finds_the_curves_again(model):
    pair = Fit(model, (0.9, 0.8), 0.0).course(STEPS[::2])
    found = fit_model(type(model), pair)
    assert found.residual < 0.02 and found.gains == pytest.approx((0.9, 0.8), abs=0.05)
    guess = found.predict(pair.steps[-1])["half_decay"]
    assert guess == pytest.approx(pair.find()["half_decay"], rel=0.1)


def test_what_never_comes_is_none():
    lasting = Fit(Race(iwl_rate=1e-7, fading=1e-7), (1.0, 1.0), 0.0)
    assert lasting.predict(1000)["half_decay"] is None


def test_a_runs_strengths_are_shares_of_what_lies_above_chance():
    rows = [
        {"step": step, "metrics": {"icl/accuracy": icl, "iwl/accuracy": iwl}}
        for step, icl, iwl in [(0, 0.2, 0.2), (50, 1.0, 0.6)]
    ]
    pair = read_pair([*rows, {"step": 60, "metrics": {"icl/accuracy": 0.5}}], {"icl/accuracy": 0.2})
    assert pair.steps.tolist() == [0, 50] and pair.icl.tolist() == [0, 1] and pair.iwl.tolist() == [0.2, 0.6]
    with pytest.raises(ConfigError, match="the history does not have it"):
        read_pair(rows, {}, iwl="ciwl/accuracy")


def test_too_few_points_are_refused():
    with pytest.raises(ConfigError, match="steps = 2: a model of 5 parameters needs as many points"):
        fit_model(Race, Pair(STEPS[:2], STEPS[:2], STEPS[:2]))
