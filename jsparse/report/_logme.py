"""LogME: how well fixed features explain new targets, without training.

1. targets become columns y: a 0/1 column for each class, or the regression targets themselves
2. of the features F the squared singular values sigma_i and z_i^2 = (u_i . y)^2
3. for each column, the evidence as a function of t = alpha / beta alone
4. its highest point on a grid of log t, then bisection of its slope
5. score: the highest evidence per sample, averaged over the columns

Numbers, with published ones: `experiments/transfer_score.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jsparse._values import shown
from jsparse.report._samples import read_table, read_targets

CUT = 1e-8
"""Singular values below this fraction of the largest one are zeros."""
ROUNDING = 1e-14
"""Eigenvalues of F^T F below this fraction of the largest one are rounding."""
TRUSTED = 1e-8
"""Ratios above this are accurate enough from F^T F."""
GRID = np.linspace(-37, 37, 75)
"""log t, relative to the largest eigenvalue: 1e-16 to 1e16, beyond which float64 sees no change."""
HALVINGS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """How well features explain targets.

    Attributes:
      score: log evidence per sample, in nats, averaged over the columns; higher is better.
      alpha: precision of the weights of each column, [columns].
      beta: precision of the noise of each column, [columns].
      weights: most probable weights, [features, columns]; `features @ weights` predicts.
    """

    score: float
    alpha: np.ndarray
    beta: np.ndarray
    weights: np.ndarray


def logme(features: ArrayLike, targets: ArrayLike) -> Evidence:
    """Log maximum evidence of targets given features: which model transfers, without training it.

        y = F w + noise,  w ~ N(0, 1 / alpha),  noise ~ N(0, 1 / beta)
        score = mean over columns y of  max over alpha, beta of  log p(y | F) / N

    The maximum is exact whatever the rank of F: dead units, copied features and more features than
    samples count as in the model above. The authors' code leaves out the determinant's part of the
    directions without features, so it differs wherever the rank is below the number of features.
    Scores are comparable between features of the same samples and targets only.

    Where the features predict the targets without error there is no maximum; then alpha / beta is
    the smallest that float64 can distinguish from 0, 1e-16 of the largest eigenvalue of F^T F.

    Args:
      features: [samples, features], such as the inputs of a network's last layer; computed in
        float64.
      targets: integers or bools [samples], classes from 0 on; or floats [samples] or [samples,
        columns] to be regressed on, each column by itself.

    Returns:
      An Evidence: score in nats per sample, alpha, beta and weights.

    Raises:
      TypeError: features or targets are not numbers of these types.
      ValueError: NaN or infinite numbers, other shapes or lengths, fewer than two classes, a class
        without a sample, a column of zeros.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> features, labels = rng.normal(size=(200, 8)), rng.integers(0, 2, 200)
      >>> useless = logme(features, labels).score
      >>> features[:, 0] += 3 * labels
      >>> logme(features, labels).score > useless + 0.2
      True

    Reference: You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning,
    ICML 2021; You et al., Ranking and Tuning Pre-trained Models, JMLR 2022, section 4. The search
    over one variable and the exact determinant are ours.
    """
    f = read_table("features", features)
    y = _columns(targets, len(f))  # 1
    largest, y_scale = max(f.max(), -f.min()), np.abs(y).max(0)
    f_scale = 1.0 if largest == 0 or 1e-60 < largest < 1e60 else largest  # whose square is a float
    found = _fitted(f if f_scale == 1 else f / f_scale, y / y_scale)
    score = float(np.mean(found.evidence / len(f) - np.log(y_scale)))  # 5
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        beta = found.beta / y_scale**2
        alpha = found.t * found.beta * (f_scale / y_scale) ** 2
        weights = found.weights * (y_scale / f_scale)
    return Evidence(score, alpha, beta, weights)


class _Directions(NamedTuple):
    """Features and targets in the k directions in which the features differ from 0."""

    sigma: np.ndarray  # squared singular values, [k]
    along: np.ndarray  # part of each target along each direction, [k, columns]
    rest: np.ndarray  # squared length of what no direction reaches, [columns]
    back: Callable[[np.ndarray], np.ndarray]  # [k, columns] -> [features, columns]


class _Fit(NamedTuple):
    """The maximum of each column: [columns], and weights [features, columns].

    `certainty` is the least share, of all columns, of t in the largest eigenvalue and of the
    residual in the target.
    """

    evidence: np.ndarray
    t: np.ndarray
    beta: np.ndarray
    weights: np.ndarray
    certainty: float


def _fitted(f: np.ndarray, y: np.ndarray) -> _Fit:
    if len(f) >= f.shape[1]:  # half the work of a decomposition of F, at half the digits
        found = _maximum(_by_eigenvalues(f, y), len(f))
        if found.certainty >= TRUSTED:
            return found
    return _maximum(_by_singular_values(f, y), len(f))


def _by_eigenvalues(f: np.ndarray, y: np.ndarray) -> _Directions:  # 2
    sigma, turned, turn = _eigen(f.T @ f, (y.T @ f).T)
    kept = sigma > ROUNDING * sigma[-1]
    along = turned[kept] / np.sqrt(sigma[kept])[:, None]
    rest = np.maximum((y**2).sum(0) - (along**2).sum(0), 0.0)
    return _Directions(sigma[kept], along, rest, lambda some: turn(kept, some))


def _eigen(gram: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Eigenvalues of a matrix, columns along its eigenvectors, and (which of these, some) -> back.

    It is Q T Q^T, and the tridiagonal T is V sigma V^T. Multiplying a few columns by Q and by V is
    less work than the product of both, the eigenvectors, which `eigh` computes.
    """
    from scipy.linalg import eigh_tridiagonal, get_lapack_funcs  # comes with jax

    if len(gram) == 1:
        return gram[0], columns, lambda kept, some: some
    reduce, room, turn = get_lapack_funcs(("sytrd", "sytrd_lwork", "ormqr"), (gram,))
    reflectors, diagonal, beside, tau, _ = reduce(gram, 1, int(room(len(gram), lower=1)[0]))
    sigma, v = eigh_tridiagonal(diagonal, beside)

    def turned(how: str, some: np.ndarray) -> np.ndarray:  # Q leaves the first row alone
        q = turn("L", how, reflectors[1:, :-1], tau, some[1:], 64 * some.shape[1])
        return np.concatenate([some[:1], q[0]])

    return sigma, v.T @ turned("T", columns), lambda kept, some: turned("N", v[:, kept] @ some)


def _by_singular_values(f: np.ndarray, y: np.ndarray) -> _Directions:  # 2
    width = f.shape[1]
    # only products of columns matter, and a rotation of the samples keeps them
    triangle: Any = np.linalg.qr(np.hstack([f, y]), mode="r")
    head, tail = triangle[:width], triangle[width:, width:]
    u, s, vh = np.linalg.svd(head[:, :width], full_matrices=False)
    kept = s > CUT * s[0]
    along = u.T @ head[:, width:]
    rest = (tail**2).sum(0) + (along[~kept] ** 2).sum(0)
    return _Directions(s[kept] ** 2, along[kept], rest, lambda some: vh[kept].T @ some)


def _maximum(directions: _Directions, samples: int) -> _Fit:
    """The best t of each column.

    With beta at its best for a given t, N / Q, the evidence is
        -N/2 (log(Q / N) + 1 + log 2 pi) + 1/2 sum_i log(t / (t + sigma_i)),
        Q = rest + sum_i z_i^2 t / (t + sigma_i)
    """
    sigma, along, rest, back = directions
    top = sigma.max(initial=0.0) or 1.0
    squares = along**2

    def q(reached: np.ndarray) -> np.ndarray:
        return np.maximum(rest + reached, np.finfo(float).tiny)

    def evidence(share: np.ndarray, q: np.ndarray) -> np.ndarray:  # 3
        noise = np.log(q / samples) + 1 + np.log(2 * np.pi)
        return 0.5 * np.log(share).sum(-1) - samples / 2 * noise

    def kept(log_t: np.ndarray) -> np.ndarray:
        return 1 / (1 + sigma / (top * np.exp(log_t)[:, None]))

    share = kept(GRID)
    best = evidence(share[:, None], q(share @ squares)).argmax(0)  # 4
    low, high = (GRID[np.clip(best + step, 0, len(GRID) - 1)] for step in (-1, 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        share = kept(middle)
        left = squares.T * share
        falls = samples * (left * (1 - share)).sum(1) / q(left.sum(1))
        rises = (1 - share).sum(1) > falls
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    share, t = kept(low), top * np.exp(low)
    left = q((squares.T * share).sum(1))
    certainty = min(t.min() / top, (left / (squares.sum(0) + rest)).min())
    weights = back(along * (np.sqrt(sigma)[:, None] / (t + sigma[:, None])))
    return _Fit(evidence(share, left), t, samples / left, weights, certainty)


def _columns(targets: ArrayLike, samples: int) -> np.ndarray:
    """The targets as float64 columns, [samples, columns]."""
    y = read_targets(targets, samples)
    if y.ndim == 1:
        return np.eye(y.max() + 1)[y]
    if (empty := ~y.any(0)).any():
        raise ValueError(
            "targets must not have a column of zeros, whose evidence has no maximum; got "
            f"{shown(targets)} with zeros in column {int(empty.argmax())}: leave it out"
        )
    return y
