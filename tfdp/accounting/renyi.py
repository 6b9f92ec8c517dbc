"""Accounting by Rényi differential privacy (RDP).

RDP composes by adding: the curve (one value per order) of a release is computed once, kept, and
multiplied by how often the release is made. That makes the question "what is epsilon now?" cheap
enough to ask after every training step.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Mapping

import dp_accounting
import numpy as np
from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent
from dp_accounting.rdp import rdp_privacy_accountant

from tfdp.accounting import events

# Two small orders serve an epsilon above about 50; 1.1 to 11 and 11 to 64 are dp_accounting's own;
# above 64 the orders grow by a fifth or less, which holds the loss to under half a percent at
# epsilons below 1; the last two serve epsilons near 0.01.
RDP_ORDERS: tuple[float, ...] = (
    1.025,
    1.05,
    *(round(1.0 + tenths / 10.0, 1) for tenths in range(1, 100)),
    *(float(order) for order in range(11, 65)),
    *(76.0, 90.0, 107.0, 128.0, 152.0, 181.0, 215.0, 256.0, 304.0, 362.0, 431.0, 512.0),
    *(609.0, 724.0, 861.0, 1024.0, 1448.0, 2048.0),
)
"""The orders of Rényi differential privacy that epsilon is the least over."""
_ORDERS = np.array(RDP_ORDERS)

# The curve of a sampled Gaussian is a logarithm that rounding can move by about 1e-14, below zero
# even when the sampling probability is tiny; dp_accounting takes a negative value as no loss at
# all. Adding this much keeps the curve an upper bound. A million steps add 1e-7 to epsilon.
_ROUNDING = 1e-13
_SMALLEST_RDP = 1e-15  # below this, 1 - exp(-rdp) rounds to zero


def total(counts: Mapping[events.Leaf, int]) -> np.ndarray:
    """Returns the RDP curve of a composition.

    Args:
        counts: how often each release is made.

    Returns:
        The RDP value at each of `RDP_ORDERS`, float64, shape `(len(RDP_ORDERS),)`.
    """
    result = np.zeros_like(_ORDERS)
    for leaf, count in counts.items():
        if count:
            result += float(count) * curve(leaf)
    return np.where((result > 0.0) & (result < _SMALLEST_RDP), _SMALLEST_RDP, result)


def epsilon(rdp: np.ndarray, delta: float) -> float:
    """Converts an RDP curve to the epsilon it proves.

    Args:
        rdp: values at `RDP_ORDERS`.
        delta: in (0, 1).

    Returns:
        Epsilon, possibly infinite.
    """
    return float(rdp_privacy_accountant.compute_epsilon(RDP_ORDERS, rdp.tolist(), delta)[0])


def delta(rdp: np.ndarray, epsilon: float) -> float:
    """Converts an RDP curve to the delta it proves.

    Args:
        rdp: values at `RDP_ORDERS`.
        epsilon: 0 or above.

    Returns:
        Delta, at most 1.
    """
    if np.isinf(rdp).all():
        return 1.0
    return float(rdp_privacy_accountant.compute_delta(RDP_ORDERS, rdp.tolist(), epsilon)[0])


def most_repetitions(
    spent: np.ndarray, increment: np.ndarray, target_epsilon: float, delta: float
) -> float:
    """Estimates how often a release still fits, up to rounding.

    Each order gives a bound that is linear in the count; the best order wins.

    Args:
        spent: RDP values already composed.
        increment: RDP values that one more release adds.
        target_epsilon: the epsilon not to exceed.
        delta: in (0, 1).

    Returns:
        The estimate, a float that may be infinite or negative.
    """
    with np.errstate(all="ignore"):
        offset = np.log1p(-1.0 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1.0)
        by_order = (target_epsilon - spent - offset) / increment
        by_divergence = (-np.log1p(-(delta**2)) - spent) / increment
    both = np.concatenate([by_order, by_divergence])
    return float(np.max(both[~np.isnan(both)], initial=-np.inf))


@functools.lru_cache(maxsize=1024)
def curve(leaf: events.Leaf) -> np.ndarray:
    """Returns the RDP curve of one release; computed once, then kept.

    Args:
        leaf: the release.

    Returns:
        The RDP value at each of `RDP_ORDERS`, not to be written to.
    """
    event = leaf.event
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        rdp = _fixed_size(event)
    elif isinstance(event, TruncatedSubsampledGaussianDpEvent):
        rdp = _truncated(leaf)
    else:
        rdp = _composed(event, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        rdp = np.minimum(rdp, _unsampled(event.event))
    rdp = _convex(rdp)
    if isinstance(event, events.SAMPLED):
        rdp = rdp + _ROUNDING
    rdp.setflags(write=False)
    return rdp


def _composed(
    event: dp_accounting.DpEvent, relation: dp_accounting.NeighboringRelation
) -> np.ndarray:
    accountant = rdp_privacy_accountant.RdpAccountant(RDP_ORDERS, relation)
    with _quiet(), np.errstate(all="ignore"):
        rdp = accountant.compose(event).rdp
    return np.where(np.isnan(rdp), np.inf, np.maximum(rdp, 0.0))


def _convex(rdp: np.ndarray) -> np.ndarray:
    """Tightens bounds where the series for fractional orders is loose or does not converge.

    (order - 1) * divergence is the logarithm of a moment, so it is convex in the order and zero at
    order 1: a bound may be lowered to any chord between two others.
    """
    hull = [(1.0, 0.0)]
    for order, value in zip(_ORDERS, (_ORDERS - 1.0) * rdp, strict=True):
        if math.isinf(value):
            continue
        while len(hull) > 1 and _slope(hull[-2], (order, value)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((order, value))
    orders, values = zip(*hull, strict=True)
    chords = np.interp(_ORDERS, orders, values, right=np.inf) / (_ORDERS - 1.0)
    return np.minimum(rdp, chords)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _fixed_size(event: dp_accounting.SampledWithoutReplacementDpEvent) -> np.ndarray:
    """Replacing any example, at twice the sensitivity, or emptying it, without amplification."""
    sigma = event.event.noise_multiplier
    exchanged = dp_accounting.SampledWithoutReplacementDpEvent(
        event.source_dataset_size, event.sample_size, dp_accounting.GaussianDpEvent(sigma / 2.0)
    )
    return np.minimum(
        _composed(exchanged, dp_accounting.NeighboringRelation.REPLACE_ONE),
        _unsampled(event.event),
    )


def _unsampled(gaussian: dp_accounting.GaussianDpEvent) -> np.ndarray:
    return _ORDERS / (2.0 * gaussian.noise_multiplier**2)


def _truncated(leaf: events.Leaf) -> np.ndarray:
    """Mixes the curves of a batch with room and of a full one: see `truncated_dp_sgd_event`."""
    roomy, overflow = events.without_capacity(leaf)
    full = events.with_less_noise(roomy, 0.5)
    with np.errstate(all="ignore"):
        rdp = np.logaddexp(
            np.log1p(-overflow) + (_ORDERS - 1.0) * curve(roomy),
            np.log(overflow) + (_ORDERS - 1.0) * curve(full),
        ) / (_ORDERS - 1.0)
    return np.where(np.isnan(rdp), np.inf, rdp)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops the log lines about orders whose series does not converge.

    Such an order counts as infinite, so it only fails to help. A calibration would log thousands.
    """

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
