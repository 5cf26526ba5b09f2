"""A quadratic surrogate: predict scores between and around a few scored points.

The surrogate is the mean of a Gaussian process whose draws are quadratic functions: a constant, a
gradient, one curvature common to all directions, and, kept small by the prior, the deviations of
each direction and pair of directions from it. With fewer points than coefficients it stays defined;
with more it is a least-squares fit. A point far from the centre counts less, because of the third
order that a quadratic leaves out. The strength of both priors is chosen by marginal likelihood.

Quadratics of least change from few points: Powell 2006, "The NEWUOA software for unconstrained
optimization without derivatives"; there the common curvature is not free.

Shapes: P points, N coordinates.
"""

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Standard deviations of constant, gradient and common curvature: wide for values scaled to 1.
_WIDE = 10.0
_SMALLEST_NOISE = 1e-4
_DIFFERING_CURVATURES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_THIRD_ORDERS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """``constant + gradient·u + u·hessian·u / 2``; u is the offset from ``center`` / ``scale``."""

    center_N: Array
    scale: float
    constant: float
    gradient_N: Array
    hessian_NN: Array

    def __call__(self, point_N: Array) -> float:
        """Return the surrogate's value."""
        u_N = (point_N - self.center_N) / self.scale
        return float(self.constant + self.gradient_N @ u_N + u_N @ self.hessian_NN @ u_N / 2)

    def minimum_within(self, radius: float, *, low: float, high: float) -> Array:
        """Return the point with the lowest value in a box around the centre, and in the bounds."""
        from scipy.optimize import minimize

        # The optimiser's tolerances are absolute: they are meant for values of about 1.
        unit = max(float(np.abs(self.gradient_N).max()), 1e-12)
        gradient_N, hessian_NN = self.gradient_N / unit, self.hessian_NN / unit

        def value(u_N: Array) -> tuple[float, Array]:
            slope_N = hessian_NN @ u_N
            return float(gradient_N @ u_N + u_N @ slope_N / 2), gradient_N + slope_N

        bounds = [
            (
                max(-radius, low - center) / self.scale,
                min(radius, high - center) / self.scale,
            )
            for center in self.center_N
        ]
        found = minimize(value, np.zeros_like(self.center_N), jac=True, bounds=bounds)
        inside_N: Array = np.clip(self.center_N + self.scale * found.x, low, high)
        return inside_N


def fit_quadratic(points_PN: Array, values_P: Array, *, center_N: Array, scale: float) -> Quadratic:
    """Return the most likely quadratic through the points.

    ``scale`` is the unit of length for offsets; points up to a few units away count.
    """
    u_PN = (points_PN - center_N) / scale
    base = float(values_P.min())
    nearest = np.argsort(np.linalg.norm(u_PN, axis=1), kind="stable")[: 2 * len(center_N) + 2]
    spread = float(np.std(values_P[nearest])) or 1.0
    y_P = (values_P - base) / spread
    best: tuple[float, float, Array] | None = None
    for differing, third in itertools.product(_DIFFERING_CURVATURES, _THIRD_ORDERS):
        kernel_PP = _kernel(u_PN, differing)
        noise_P = _SMALLEST_NOISE + third * np.linalg.norm(u_PN, axis=1) ** 3
        likelihood, alpha_P = _solve(kernel_PP + np.diag(noise_P**2), y_P)
        if best is None or likelihood > best[0]:
            best = (likelihood, differing, alpha_P)
    assert best is not None
    _, differing, alpha_P = best
    lengths_P = (u_PN**2).sum(axis=1)
    common = _WIDE**2 * float(alpha_P @ lengths_P) / 2
    hessian_NN = differing**2 * (u_PN.T * alpha_P) @ u_PN + common * np.eye(len(center_N))
    return Quadratic(
        center_N=center_N,
        scale=scale,
        constant=base + spread * _WIDE**2 * float(alpha_P.sum()),
        gradient_N=spread * _WIDE**2 * (alpha_P @ u_PN),
        hessian_NN=spread * hessian_NN,
    )


def _kernel(u_PN: Array, differing: float) -> Array:
    """Return the covariances of the points' values."""
    products_PP = u_PN @ u_PN.T
    lengths_P = (u_PN**2).sum(axis=1)
    wide_PP = 1 + products_PP + np.outer(lengths_P, lengths_P) / 4
    kernel_PP: Array = _WIDE**2 * wide_PP + differing**2 * products_PP**2 / 2
    return kernel_PP


def _solve(covariance_PP: Array, y_P: Array) -> tuple[float, Array]:
    """Return the log marginal likelihood of ``y_P``, but for a constant, and its coefficients."""
    lower_PP = np.linalg.cholesky(covariance_PP)
    alpha_P = np.linalg.solve(lower_PP.T, np.linalg.solve(lower_PP, y_P))
    return float(-y_P @ alpha_P / 2 - np.log(np.diag(lower_PP)).sum()), alpha_P
