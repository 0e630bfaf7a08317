"""The laws against the papers' constants, and the fits against rows made from known laws."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from scipy import optimize

from nextword.scaling_laws import (
    PF_DAY,
    Chinchilla,
    Kaplan,
    PowerLaw,
    best_size,
    fit_chinchilla,
    fit_kaplan,
    fit_power_law,
    kaplan_loss,
    training_flops,
)

SIZES = np.array([1e7, 3e7, 1e8, 3e8, 1e9])
TOKENS = np.array([1e8, 1e9, 1e10, 1e11])
N, D = (x.ravel() for x in np.meshgrid(SIZES, TOKENS))
EPOCH = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # Besiroglu et al. 2024


# --- The laws --------------------------------------------------------------------------------------------------------


def test_the_joint_law_has_its_own_constants() -> None:
    assert kaplan_loss(N=1e8, D=1e10) == pytest.approx(2.788, abs=5e-4)
    with_those_of_the_single_laws = Kaplan(0.076, 0.095, 8.8e13, 5.4e13)(1e8, 1e10)
    assert abs(float(with_those_of_the_single_laws) - 2.788) > 0.05


@pytest.mark.parametrize(("which", "alpha", "factor"), [("N", 0.076, 0.839), ("D", 0.095, 0.804), ("C", 0.050, 0.891)])
def test_ten_times_as_much(which: str, alpha: float, factor: float) -> None:
    once, ten = kaplan_loss(**{which: 1e20}), kaplan_loss(**{which: 1e21})
    assert ten / once == pytest.approx(10**-alpha)
    assert ten / once == pytest.approx(factor, abs=5e-4)


def test_a_loss_of_one_nat_is_reached_at_the_printed_scales() -> None:
    assert kaplan_loss(N=8.8e13) == pytest.approx(1)
    assert kaplan_loss(C=3.1e8 * PF_DAY) == pytest.approx(1)


def test_much_data_leaves_the_law_of_size_and_a_large_model_the_law_of_data() -> None:
    law = Kaplan(0.076, 0.103, 6.4e13, 1.8e13)
    assert float(law(1e9, 1e30)) == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert float(law(1e40, 1e9)) == pytest.approx((1.8e13 / 1e9) ** 0.103)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "given: nothing; give N, D or C alone, or N and D"),
        ({"N": 1.0, "C": 1.0}, "given: N, C;"),
        ({"N": 1.0, "D": 1.0, "C": 1.0}, "given: N, D, C;"),
        ({"N": 0.0}, "N=0.0 must be above 0"),
        ({"D": math.nan, "N": 1.0}, "D=nan must be above 0 and finite"),
    ],
)
def test_what_kaplan_loss_refuses(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kaplan_loss(**given)


def test_the_optimum_spends_all_and_nothing_is_better_beside_it() -> None:
    C = np.array([1e19, 1e21, 1e23])
    sizes, tokens = EPOCH.optimum(C)
    np.testing.assert_allclose(training_flops(sizes, tokens), C)
    for factor in (0.7, 0.97, 1.03, 1.4):
        assert (EPOCH(sizes * factor, tokens / factor) > EPOCH(sizes, tokens)).all()
    slope = np.polyfit(np.log(C), np.log(sizes), 1)[0]
    assert slope == pytest.approx(EPOCH.exponent)


def test_gophers_budget_as_printed_and_as_fitted_again() -> None:
    printed = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    for law, billions, ratio in ((printed, 32, 93), (EPOCH, 73, 18)):
        size, tokens = law.optimum(5.76e23)
        assert float(size) / 1e9 == pytest.approx(billions, abs=1)
        assert float(tokens / size) == pytest.approx(ratio, abs=1)


# --- The fits --------------------------------------------------------------------------------------------------------


@example(exponent=1.5, scale=100.0, floor=3.0)  # its last point is a millionth above the floor
@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(0.02, 1.5), scale=st.floats(1e2, 1e12), floor=st.sampled_from([0.0, 0.5, 3.0]))
def test_a_power_law_is_found_again(exponent: float, scale: float, floor: float) -> None:
    law = PowerLaw(exponent, scale, floor)
    x = np.geomspace(1, 1e6, 9)
    found = fit_power_law(x, law(x), floor=bool(floor))
    np.testing.assert_allclose(found(x), law(x), rtol=1e-5)
    assert found.exponent == pytest.approx(exponent, rel=1e-4)
    assert found.r2 == pytest.approx(1)


def test_a_floor_that_is_not_there_is_not_found() -> None:
    x = np.geomspace(1, 1e6, 9)
    assert fit_power_law(x, PowerLaw(0.3, 1e5)(x), floor=True).floor == pytest.approx(0, abs=1e-3)
    rising_faster = 10 - np.log(x)  # a line in log(x) bends down where a floor would bend it up
    assert fit_power_law(x[:5], rising_faster[:5], floor=True).floor == 0


def test_the_interval_covers_the_exponent_as_often_as_it_says() -> None:
    generator, x = np.random.default_rng(0), np.geomspace(1e3, 1e6, 7)
    inside = 0
    for _ in range(400):
        noisy = PowerLaw(0.05, 1e12)(x) * np.exp(generator.normal(0, 0.01, 7))
        low, high = fit_power_law(x, noisy).interval
        inside += low <= 0.05 <= high
    assert 0.92 < inside / 400 < 0.98


def test_r2_is_that_of_the_straight_line() -> None:
    x, loss = np.array([1.0, 2, 4, 8]), np.array([4.0, 3.2, 2.2, 1.9])
    assert fit_power_law(x, loss).r2 == pytest.approx(np.corrcoef(np.log(x), np.log(loss))[0, 1] ** 2)


def test_the_joint_law_is_found_again() -> None:
    law = Kaplan(0.076, 0.103, 6.4e13, 1.8e13)
    found = fit_kaplan(N, D, law(N, D))
    for name in ("alpha_N", "alpha_D", "N_c", "D_c"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-6)


def test_the_joint_law_is_found_where_bytes_make_other_constants() -> None:
    law = Kaplan(0.055, 0.12, 3e8, 2e9)
    sizes, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(768, 786_432, 6), np.geomspace(4e4, 3e6, 5)))
    found = fit_kaplan(sizes, tokens, law(sizes, tokens))
    np.testing.assert_allclose(found(sizes, tokens), law(sizes, tokens), rtol=1e-7)


@pytest.mark.parametrize(
    "law", [EPOCH, Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28), Chinchilla(0.9, 12.0, 60.0, 0.2, 0.5)]
)
def test_chinchillas_constants_are_found_again(law: Chinchilla) -> None:
    found = fit_chinchilla(N, D, law(N, D))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-6)


def test_bad_runs_do_not_pull_chinchillas_fit() -> None:
    loss = EPOCH(N, D)
    loss[3] *= 1.3  # a run that failed
    found = fit_chinchilla(N, D, loss)
    assert found.alpha == pytest.approx(EPOCH.alpha, abs=0.01)
    assert found.objective == pytest.approx(
        1e-3 * (math.log(1.3) - 5e-4), rel=0.02
    )  # its straight line and little else


def test_no_start_of_the_whole_grid_ends_lower() -> None:
    """The best 40 starts are followed; here one in thirty of all 4,500 is, by another optimiser."""
    generator = np.random.default_rng(1)
    loss = EPOCH(N, D) * np.exp(generator.normal(0, 0.005, len(N)))
    best = fit_chinchilla(N, D, loss)

    def objective(p: np.ndarray) -> float:
        a, b, e, alpha, beta = p
        gap = np.abs(np.logaddexp.reduce([a - alpha * np.log(N), b - beta * np.log(D), e + 0 * N]) - np.log(loss))
        return float(np.where(gap <= 1e-3, gap**2 / 2, 1e-3 * (gap - 5e-4)).sum()) * 1e6

    grid = np.stack(np.meshgrid(*[np.arange(0, 26, 5)] * 2, np.arange(-1, 1.1, 0.5), *[np.arange(0, 2.1, 0.5)] * 2), -1)
    ends = [optimize.minimize(objective, p, method="BFGS").fun / 1e6 for p in grid.reshape(-1, 5)[::30]]
    assert best.objective <= min(ends) * (1 + 1e-6)


def test_a_start_stands_in_for_the_grid() -> None:
    loss = EPOCH(N, D) * np.exp(np.random.default_rng(2).normal(0, 0.003, len(N)))
    whole = fit_chinchilla(N, D, loss)
    again = fit_chinchilla(N, D, loss, start=whole)
    assert again.objective == pytest.approx(whole.objective, rel=1e-6)


@pytest.mark.parametrize(
    ("fit", "columns", "message"),
    [
        (fit_power_law, ([1, 2], [2, 1]), "2 different points are too few"),
        (fit_power_law, ([1, 2, 2], [2, 1, 1]), "2 different points are too few"),
        (fit_power_law, ([1, 2, 3], [2, 1]), r"loss has shape \(2,\); \(3,\) fits"),
        (fit_power_law, ([0, 2, 3], [3, 2, 1]), "x holds 0.0; every number must be above 0"),
        (fit_power_law, ([1, 2, 3], [2, 2, 2]), "loss is 2 in every run"),
        (fit_power_law, ([1, 10, 100], [2, 3, 2]), r"loss hardly depends on x .a slope of"),
        (fit_power_law, ([1, 10, 100], [2, 2 + 1e-15, 2 - 1e-15]), "loss hardly depends on x"),
        (fit_power_law, (5, 2), "1 different points are too few"),
        (fit_kaplan, ([1, 2, 3, 4], [1, 2, 3, 4], [2, 2, 2, 2]), "1 different points are too few"),
        (fit_chinchilla, ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [2] * 5), "1 different points are too few"),
        (fit_kaplan, ([1, 1, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1]), "N is 1 in every run"),
        (fit_kaplan, ([1, 2], [1, 2], [2, 1]), "2 different points are too few"),
        (fit_chinchilla, ([1, 2, 3, 4, 5], [7, 7, 7, 7, 7], [5, 4, 3, 2, 1]), "D is 7 in every run"),
        (fit_chinchilla, ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [5, 4, 3, 2, math.inf]), "loss holds"),
    ],
)
def test_what_the_fits_refuse(fit: object, columns: tuple[list[float], ...], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        fit(*columns)  # type: ignore[operator]


def test_a_huber_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match="delta holds 0"):
        fit_chinchilla(N, D, EPOCH(N, D), delta=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [[2.0, 2, 2, 2], [2.0, 3, 3, 2]])
def test_a_loss_that_does_not_depend_on_x_has_no_law_with_a_floor_either(loss: list[float]) -> None:
    with pytest.raises(ValueError, match="loss (is 2 in every run|hardly depends on x)"):
        fit_power_law([1, 10, 100, 1000], loss, floor=True)


def test_a_floor_needs_four_points() -> None:
    with pytest.raises(ValueError, match="give 4 or more"):
        fit_power_law([1, 2, 3], [3, 2, 1.5], floor=True)


# --- Valleys ---------------------------------------------------------------------------------------------------------


def test_valleys_of_a_known_law_lie_where_its_optimum_is() -> None:
    for C in (1e20, 1e22):
        size, _ = EPOCH.optimum(C)
        around = float(size) * np.geomspace(0.3, 3, 7)
        found = best_size(around, EPOCH(around, C / 6 / around))
        assert found == pytest.approx(float(size), rel=0.03)  # a valley is no exact parabola


def test_a_parabola_goes_through_the_runs_next_to_the_best() -> None:
    x = np.arange(9.0)
    loss = 2 + 0.1 * (x - 3) ** 2
    loss[8] = 100  # far from the valley
    assert best_size(np.exp(x), loss) == pytest.approx(np.exp(3))
    assert best_size(np.exp(x), loss, near=9) != pytest.approx(np.exp(3))


@pytest.mark.parametrize(
    "loss", [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 1.0]], ids=["falling", "rising", "a hill"]
)
def test_no_valley_no_size(loss: list[float]) -> None:
    assert best_size([1.0, 10.0, 100.0], loss) is None
    assert best_size([1.0, 10.0, 10.0], loss) is None
