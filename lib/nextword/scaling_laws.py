"""How the loss of a language model falls with its size, its data and its compute: Kaplan's laws, Chinchilla's, and fits.

N counts the non-embedding parameters (12·L·C² for L layers of width C), D the tokens that were read, C = 6·N·D the
operations of training. A loss is in nats a token, or a byte where the tokens are bytes; the unit does not change the
exponents.

Used in: 2020_scaling_laws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

__all__ = [
    "PF_DAY",
    "Chinchilla",
    "Kaplan",
    "PowerLaw",
    "best_size",
    "fit_chinchilla",
    "fit_kaplan",
    "fit_power_law",
    "kaplan_loss",
    "training_flops",
]

Array: TypeAlias = np.ndarray

PF_DAY = 8.64e19
"""Operations of a machine that makes 10^15 a second for a day: Kaplan's unit of compute."""


def training_flops(N: ArrayLike, D: ArrayLike) -> Array:
    """Return 6·N·D: two operations a parameter and token forward, four backward (Kaplan et al. 2020, section 2.1).

    Attention's own products and the output matrix are left out, as the paper does.

    Example:
        >>> float(training_flops(175e9, 300e9))  # GPT-3
        3.15e+23
    """
    # For each token a weight multiplies once and adds once: 2 operations. On the way back it does so twice, for the
    # gradient of the layer's input and for that of the weight itself: 4 more.
    return np.asarray(6.0 * np.asarray(N, dtype=float) * np.asarray(D, dtype=float))


# --- The laws --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = floor + (scale / x)^exponent: a straight line on logarithmic axes, where the floor is 0.

    Example:
        >>> law = PowerLaw(exponent=0.5, scale=400.0)
        >>> float(law(100))
        2.0
    """

    exponent: float  #: By which power of x the part above the floor falls.
    scale: float
    """Where the part above the floor would be 1."""
    floor: float = 0.0
    """What no x gets below. Kaplan's laws have none; the GPT-4 report's has one."""
    r2: float = float("nan")
    """Share of the variance of log(loss) that the fit explains."""
    interval: tuple[float, float] = (float("nan"), float("nan"))
    """Where the exponent lies with 95 % confidence, if the points scatter about the line normally."""

    def __call__(self, x: ArrayLike) -> Array:
        """Return the loss at ``x``."""
        # Ten times x divides the part above the floor by 10^exponent, wherever on the curve one starts.
        return np.asarray(self.floor + (self.scale / np.asarray(x, dtype=float)) ** self.exponent)


@dataclass(frozen=True)
class Kaplan:
    """L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D (Kaplan et al. 2020, equation 1.5)."""

    alpha_N: float  #: Exponent of the parameters.
    alpha_D: float  #: Exponent of the tokens.
    N_c: float  #: Parameters at which the loss would be 1 nat with endless data.
    D_c: float  #: Tokens at which it would be 1 nat in an endless model.

    def __call__(self, N: ArrayLike, D: ArrayLike) -> Array:
        """Return the loss of N parameters trained on D tokens until the loss on new text stops falling."""
        # With data in abundance D_c/D vanishes and (N_c/N)^α_N is left, a law of the size alone; with a very large
        # model (D_c/D)^α_D is. Between the two the larger term, that of the scarcer quantity, weighs more.
        N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
        return np.asarray(((self.N_c / N) ** (self.alpha_N / self.alpha_D) + self.D_c / D) ** self.alpha_D)


@dataclass(frozen=True)
class Chinchilla:
    """L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, equation 2)."""

    E: float
    """The loss that neither size nor data gets below: the entropy of text itself, if the law held for ever."""
    A: float  #: Size of the part that parameters lower.
    B: float  #: Size of the part that tokens lower.
    alpha: float  #: Exponent of the parameters.
    beta: float  #: Exponent of the tokens.
    objective: float = float("nan")
    """The sum of Huber losses at the end of the fit."""

    def __call__(self, N: ArrayLike, D: ArrayLike) -> Array:
        """Return the loss of N parameters after D tokens, each read once."""
        # E is the loss of a perfect model of the text, A/N^α what a finite size adds to it, and B/D^β what finite data
        # add. The two deficits do not depend on each other.
        N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
        return np.asarray(self.E + self.A / N**self.alpha + self.B / D**self.beta)

    def optimum(self, C: ArrayLike) -> tuple[Array, Array]:
        """Return the N and D that give the lowest loss for C = 6·N·D operations (Hoffmann et al. 2022, equation 4).

        Example:
            >>> printed = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
            >>> N, D = printed.optimum(5.76e23)  # Gopher's budget, for which they trained 70 billion parameters
            >>> round(float(N) / 1e9), round(float(D) / 1e12, 1)
            (32, 3.0)
        """
        # C fixes the product N·D = C/6. Along this curve the loss is lowest where its derivative by log(N) is 0, which
        # is where α·A/N^α = β·B/D^β. With D = C/(6·N) this is an equation for N alone.
        both, ND = self.alpha + self.beta, np.asarray(C, dtype=float) / 6
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        return np.asarray(G * ND ** (self.beta / both)), np.asarray(ND ** (self.alpha / both) / G)

    @property
    def exponent(self) -> float:
        """Return how the best size grows with compute: N ∝ C^exponent, here β/(α + β)."""
        return self.beta / (self.alpha + self.beta)  # 1/2 where α = β: size and data then grow alike


ALONE = {
    "N": PowerLaw(0.076, 8.8e13),
    "D": PowerLaw(0.095, 5.4e13),
    "C": PowerLaw(0.050, 3.1e8 * PF_DAY),
}
"""Each with the others in abundance; compute spent in the best way (Kaplan et al. 2020, equations 1.1 to 1.3, table 4)."""

TOGETHER = Kaplan(0.076, 0.103, 6.4e13, 1.8e13)
"""Equation 1.5 with the constants of its own fit (table 2). Those of the single laws do not belong here."""


def kaplan_loss(*, N: float | None = None, D: float | None = None, C: float | None = None) -> float:
    """Return the loss in nats a token that Kaplan et al. expect on WebText2 (tokens of GPT-2, 1,024 at a time).

    Args:
        N: non-embedding parameters; alone: with enough data, trained to the end.
        D: tokens of text; alone: with a model that is large enough. Together with N: equation 1.5.
        C: operations of training, spent in the best way on size and data; alone.

    Raises:
        ValueError: nothing was given, C together with another, or a number that is not above 0.

    Source: Kaplan et al. 2020, section 1.2, tables 2 and 4.

    Example:
        >>> round(kaplan_loss(N=1e8, D=1e10), 3)
        2.788
        >>> round(kaplan_loss(N=1.5e9), 2), round(kaplan_loss(C=PF_DAY), 2)
        (2.3, 2.66)
    """
    known = {name: x for name, x in {"N": N, "D": D, "C": C}.items() if x is not None}
    for name, x in known.items():
        if not 0 < x < np.inf:
            raise ValueError(f"{name}={x} must be above 0 and finite")
    # The laws of N and of D alone each take the other to be abundant. Where both are limited only the joint law holds.
    if N is not None and D is not None and C is None:
        return float(TOGETHER(N, D))
    if len(known) != 1:
        raise ValueError(f"given: {', '.join(known) or 'nothing'}; give N, D or C alone, or N and D")
    [(name, x)] = known.items()
    return float(ALONE[name](x))


# --- Fits, all in logarithms: the losses of small and large models then count alike ------------------------------------


def fit_power_law(x: Sequence[float] | Array, loss: Sequence[float] | Array, *, floor: bool = False) -> PowerLaw:
    """Return the power law nearest to the points, by least squares of log(loss).

    Args:
        x: sizes, tokens or operations.
        loss: one for each.
        floor: whether the law may level off; it takes one more point. The confidence interval leaves the doubt about the
            floor out.

    Raises:
        ValueError: fewer than three different points (four with a floor), numbers that are not above 0, or a loss that
            hardly depends on ``x``.

    Example:
        >>> law = fit_power_law([1, 10, 100], [4.0, 2.0, 1.0])
        >>> round(law.exponent, 3), round(law.scale), round(law.r2, 3)  # log10 of 2
        (0.301, 100, 1.0)
    """
    x, loss = _positive(x=x, loss=loss)
    _enough(x, least=4 if floor else 3)
    _varied(loss=loss)
    # Once the floor is known the rest is a straight line, which has an exact solution: only the floor must be searched.
    lowest = _best_floor(x, loss) if floor else 0.0
    # log(L - floor) = exponent · (log(scale) - log(x)): a straight line in log(x)
    line = stats.linregress(np.log(x), np.log(loss - lowest))
    if line.slope == 0 or not abs(line.intercept / line.slope) < 700:  # the scale would be 0 or infinite
        raise ValueError(
            f"loss hardly depends on x (a slope of {line.slope:.1e} on logarithmic axes): no power law fits"
        )
    law = _as_law(line.slope, line.intercept, lowest)
    # Measured in log(loss), with and without a floor: log(loss - floor) has another scale for every floor, and shares
    # of its variance could not be compared.
    unexplained = np.mean(np.log(loss / law(x)) ** 2) / np.var(np.log(loss))
    # Slope and intercept were taken from these points: n - 2 degrees of freedom, and Student's t instead of 1.96.
    half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)  # of the interval around the slope
    return replace(law, r2=float(1 - unexplained), interval=(law.exponent - half, law.exponent + half))


def _best_floor(x: Array, loss: Array) -> float:
    """Return the floor from 0 up to the lowest loss that leaves the least squares; for each, the rest is a line."""

    def floor(above: float) -> float:  # 0 for above = 0, and nearer and nearer to the lowest loss
        return float(loss.min() * (1 - math.exp(-above)))

    def misfit(above: float) -> float:
        # For a given floor the line comes from log(loss - floor), but floors are compared by how well they give
        # log(loss) itself: with a floor near the lowest loss, log(loss - floor) runs off towards minus infinity.
        line = stats.linregress(np.log(x), np.log(loss - floor(above)))
        with np.errstate(all="ignore"):  # a slope of nearly 0 has no scale, which fit_power_law says in words
            return float(np.sum(np.log(loss / _as_law(line.slope, line.intercept, floor(above))(x)) ** 2))

    # Equal steps of ``above`` divide the gap between floor and lowest loss by the same factor each. The grid finds the
    # right valley, and the search its bottom.
    grid = np.arange(0, 30, 14 / 299)  # floors from 0 to (1 - e⁻³⁰) times the lowest loss: a steep law comes that near
    best = int(np.argmin([misfit(above) for above in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    refined = optimize.minimize_scalar(misfit, bounds=around, method="bounded", options={"xatol": 1e-12})
    # The search never tries the ends of its interval, so that a floor of 0 is compared apart.
    return floor(refined.x) if refined.fun < misfit(0.0) else 0.0


def _as_law(slope: float, intercept: float, floor: float) -> PowerLaw:
    """Return the law of a line log(L - floor) = intercept + slope · log(x)."""
    # slope = -exponent, and intercept = exponent · log(scale)
    return PowerLaw(-float(slope), float(np.exp(-intercept / slope)), floor)


def fit_kaplan(N: Sequence[float] | Array, D: Sequence[float] | Array, loss: Sequence[float] | Array) -> Kaplan:
    """Return the joint law of size and data nearest to the points, by least squares of log(loss).

    Raises:
        ValueError: fewer than four points; one size, one amount of data or one loss only; or numbers that are not above 0.

    Source: Kaplan et al. 2020, equation 1.5.
    """
    N, D, loss = _positive(N=N, D=D, loss=loss)
    _enough(loss, least=4)
    _varied(N=N, D=D)
    # In logarithms the constants N_c and D_c, which span orders of magnitude, become numbers that an optimiser can step
    # through, and both stay above 0.
    n, d, target = np.log(N), np.log(D), np.log(loss)

    def residuals(p: Array) -> Array:
        alpha_N, alpha_D, n_c, d_c = p
        # logaddexp(u, v) = log(exp(u) + exp(v)), taken so that no exponential overflows during the search.
        size, data = alpha_N / alpha_D * (n_c - n), d_c - d  # logarithms of (N_c/N)^(α_N/α_D) and of D_c/D
        gap: Array = alpha_D * np.logaddexp(size, data) - target  # their sum to the power of α_D, against the loss
        return gap

    # The best of eight starts: from one alone the fit may end in a valley where size or data does not matter.
    starts = itertools.product((0.05, 0.2), (0.05, 0.2), (n.mean() + 10,), (d.mean(), d.mean() + 10))
    bounds = [1e-4, 1e-4, -np.inf, -np.inf], np.inf  # both exponents above 0
    # Exponents near 0.1 and logarithms near 30 need steps of different sizes: x_scale takes them from the Jacobian.
    fits = [optimize.least_squares(residuals, p, bounds=bounds, x_scale="jac") for p in starts]
    alpha_N, alpha_D, n_c, d_c = min(fits, key=lambda fit: fit.cost).x
    return Kaplan(float(alpha_N), float(alpha_D), float(np.exp(n_c)), float(np.exp(d_c)))


REFINED = 40
"""How many of the 4,500 starts are followed to their end: those with the lowest objective."""


def fit_chinchilla(
    N: Sequence[float] | Array,
    D: Sequence[float] | Array,
    loss: Sequence[float] | Array,
    *,
    delta: float = 1e-3,
    start: Chinchilla | None = None,
) -> Chinchilla:
    """Return the sum of powers nearest to the points: the least *sum* of Huber losses of log(loss).

    Args:
        N: parameters of each run.
        D: tokens of each run, read once.
        loss: the loss of each run.
        delta: where the Huber loss, a square up to there, becomes a straight line, so that a few bad runs do not pull
            the fit.
        start: begin here instead of on the paper's grid, as for the resamples of a bootstrap.

    Raises:
        ValueError: fewer than five points; one size, one amount of data or one loss only; or numbers that are not above 0.

    Source: Hoffmann et al. 2022, section 3.3. With the *mean* in place of the sum an optimiser stops too early; that the
    printed constants suffer from such a scale was found by Besiroglu et al. 2024.
    """
    N, D, loss = _positive(N=N, D=D, loss=loss)
    _enough(loss, least=5)
    _varied(N=N, D=D)
    _positive(delta=[delta])
    n, d, target = np.log(N), np.log(D), np.log(loss)

    def log_terms(p: Array) -> Array:  # p: (5,), or (starts, 5) to try many at once
        a, b, e, alpha, beta = (p[..., i, None] for i in range(5))
        # p holds a = log(A), b = log(B) and e = log(E), so that A, B and E stay above 0 without any bounds. Adding 0·n
        # repeats e for each run.
        return np.stack([a - alpha * n, b - beta * d, e + 0 * n])  # (3, …, runs): of A/N^α, B/D^β and E

    def residuals(p: Array) -> Array:
        # log-sum-exp of the three terms (section 3.3), against log(loss): (runs,) or (starts, runs)
        gap: Array = np.logaddexp.reduce(log_terms(p)) - target
        return gap

    def jacobian(p: Array) -> Array:  # each term's share of the loss, times the slope of its logarithm
        size, data, rest = np.exp(log_terms(p) - np.logaddexp.reduce(log_terms(p)))  # softmax: (3, runs)
        return np.stack([size, data, rest, -size * n, -data * d], axis=1)  # (runs, 5)

    if start is None:  # the objective has many bad minima: look at 4,500 starts, and follow the best of them to the end
        axes = (np.arange(0, 26, 5), np.arange(0, 26, 5), np.arange(-1, 1.1, 0.5), *[np.arange(0, 2.1, 0.5)] * 2)
        grid = np.array(list(itertools.product(*axes)))  # (4500, 5): a, b, e, alpha, beta
        gaps = np.abs(residuals(grid))  # (4500, runs)
        # A square near 0 and a line beyond δ, which meet with the same value and the same slope: a run far off pulls no
        # harder than one that is off by δ.
        huber = np.where(gaps <= delta, gaps**2 / 2, delta * (gaps - delta / 2)).sum(-1)
        starts = grid[np.argsort(huber)[:REFINED]]
    else:
        starts = np.array([[*np.log([start.A, start.B, start.E]), start.alpha, start.beta]])
    # scipy's cost, 1/2 · Σ δ² · ρ((gap/δ)²), is this same sum of Huber losses. With δ = 10⁻³ it and its gradient are
    # tiny: tolerances of 10⁻⁸, as scipy has them, could end a search before the bottom of the valley.
    settings = {"jac": jacobian, "loss": "huber", "f_scale": delta, "x_scale": "jac", "max_nfev": 2000}
    fits = [optimize.least_squares(residuals, p, **settings, xtol=1e-15, ftol=1e-15, gtol=1e-15) for p in starts]
    best = min(fits, key=lambda fit: fit.cost)
    A, B, E = np.exp(best.x[:3])
    return Chinchilla(float(E), float(A), float(B), float(best.x[3]), float(best.x[4]), float(best.cost))


def best_size(N: Sequence[float] | Array, loss: Sequence[float] | Array, *, near: int = 5) -> float | None:
    """Return the size where a parabola through loss by log(N) is lowest, for runs of equal compute.

    Args:
        N: parameters of each run.
        loss: the loss of each run.
        near: how many runs next to the best one (in log N) the parabola goes through.

    Returns:
        None where there is no lowest point among the sizes: fewer than three of them, a parabola that opens downwards, or
        one that is lowest beyond the smallest or the largest size.

    Source: Hoffmann et al. 2022, section 3.2.

    Example:
        >>> round(best_size([1e5, 1e6, 1e7], [2.1, 2.0, 2.1]))
        1000000
        >>> best_size([1e5, 1e6, 1e7], [2.3, 2.1, 2.0]) is None
        True
    """
    N, loss = _positive(N=N, loss=loss)
    # At equal compute a small model is too weak for its many tokens, and a large one sees too few: between them lies a
    # valley. Near its lowest point every smooth curve is close to a parabola, further away it is not.
    x = np.log(N)
    nearest = np.argsort(np.abs(x - x[loss.argmin()]), kind="stable")[:near]
    if len(np.unique(x[nearest])) < 3:
        return None
    bend, slope, _ = np.polyfit(x[nearest], loss[nearest], 2)  # bend·x² + slope·x + rest
    # A lowest point beyond the sizes that were trained would be a guess: there the other side of the valley is missing.
    if bend <= 0 or not x.min() <= -slope / (2 * bend) <= x.max():
        return None
    return float(np.exp(-slope / (2 * bend)))  # where the parabola is flat


def _positive(**columns: Sequence[float] | Array) -> list[Array]:
    """Return the columns as arrays, or raise an error that names the one that does not fit."""
    arrays = {name: np.array(column, dtype=float, ndmin=1) for name, column in columns.items()}
    length = len(next(iter(arrays.values())))
    for name, column in arrays.items():
        if column.shape != (length,):
            raise ValueError(f"{name} has shape {column.shape}; ({length},) fits, one number a run")
        if not (np.isfinite(column) & (column > 0)).all():
            raise ValueError(f"{name} holds {column.min()}; every number must be above 0 and finite")
    return list(arrays.values())


def _enough(x: Array, least: int) -> None:
    if len(np.unique(x)) < least:
        raise ValueError(f"{len(np.unique(x))} different points are too few for this law: give {least} or more")


def _varied(**columns: Array) -> None:
    for name, column in columns.items():
        if len(np.unique(column)) < 2:
            raise ValueError(f"{name} is {column[0]:g} in every run; the law needs at least two different ones")
