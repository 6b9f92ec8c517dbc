"""Accounting by privacy loss distributions (PLD): tighter than RDP, and dearer.

A distribution is held on a mesh of privacy losses and always rounded towards more loss, so every
epsilon is an upper bound whatever the mesh; a finer mesh is only tighter. `dp_accounting` leaves
the mesh at 1e-4. Here it follows the mechanism: a step that moves the loss by 1e-5 needs a finer
mesh (at 1e-4 its epsilon is 5 % too large), one that moves it by 1 is as exact on a coarser mesh
and a hundred times faster.
"""

import functools
import math
from collections.abc import Mapping

import dp_accounting
import numpy as np
from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent
from dp_accounting.pld import common, pld_pmf, privacy_loss_distribution
from scipy import special

from tfdp.accounting import events

# Mesh points per typical loss of one release. The relative excess of epsilon is about
# 0.09 / n**2: 1e-4 when fine, 0.6 % when coarse (used only to find where to search).
_FINE, _COARSE = 32, 4
# Bounds on the points of one release's distribution (ten microseconds each, composition included)
# and of the composition (memory). The first tells where q is 1e-4 and a step moves the loss rarely
# but far: epsilon is then up to 0.3 % too large.
_RELEASE_POINTS = {_FINE: 40_000, _COARSE: 8_000}
_COMPOSED_POINTS = {_FINE: 2_000_000, _COARSE: 200_000}

# Noise is cut where its density has fallen by this exponent, at nine standard deviations; what is
# cut counts as infinite loss, which a million steps turn into a delta of 4e-12.
_LOG_MASS_CUT = -40.0
_CUT = math.sqrt(-2.0 * _LOG_MASS_CUT)

# Below this delta the cut above and the rounding of the Fourier
# transforms that compose distributions begin to show: still an upper bound, no longer tight.
SMALLEST_DELTA = 1e-10


# Beyond these the bound by RDP is taken: the points of a composition (seconds), how often a release
# is composed (a transform raised to the n-th power is off by 1e-16 n) and the mesh (overflow).
_MOST_POINTS = 2**24
_MOST_REPETITIONS = 10**9
_WIDEST_MESH = 1.0
_TAIL = 1e-15  # What dp_accounting cuts from compositions, and adds to delta.


class UnwieldyError(ArithmeticError):
    """A composition has no distribution that could be held, or none within seconds."""


def unsupported(counts: Mapping[events.Leaf, int]) -> events.Leaf | None:
    """Finds a release that has no privacy loss distribution here.

    Args:
        counts: how often each release is made.

    Returns:
        The first such release, or `None` if there is none.
    """
    return next((leaf for leaf in counts if not _has_distribution(leaf)), None)


@np.errstate(over="ignore")  # a quotient of masses overflows at epsilons of hundreds, harmlessly
def epsilon(counts: Mapping[events.Leaf, int], delta: float, *, coarse: bool = False) -> float:
    """Returns the epsilon of a composition.

    Args:
        counts: how often each release is made.
        delta: in (0, 1).
        coarse: whether to trade tightness for speed. Defaults to `False`.

    Returns:
        Epsilon, possibly infinite.

    Raises:
        ValueError: if a release has no privacy loss distribution here.
        UnwieldyError: if the releases are too many or too far from private for one.
    """
    if any(events.is_non_private(leaf) for leaf in counts):
        return math.inf
    distribution = _composed(counts, _COARSE if coarse else _FINE)
    return 0.0 if distribution is None else float(distribution.get_epsilon_for_delta(delta))


@np.errstate(over="ignore")
def delta(counts: Mapping[events.Leaf, int], epsilon: float) -> float:
    """Returns the delta of a composition.

    Args:
        counts: how often each release is made.
        epsilon: 0 or above.

    Returns:
        Delta, at most 1.

    Raises:
        ValueError: if a release has no privacy loss distribution here.
        UnwieldyError: if the releases are too many or too far from private for one.
    """
    if any(events.is_non_private(leaf) for leaf in counts):
        return 1.0
    distribution = _composed(counts, _FINE)
    return 0.0 if distribution is None else float(distribution.get_delta_for_epsilon(epsilon))


def _has_distribution(leaf: events.Leaf) -> bool:
    return isinstance(
        leaf.event,
        (
            dp_accounting.NonPrivateDpEvent,
            dp_accounting.GaussianDpEvent,
            dp_accounting.LaplaceDpEvent,
            *events.SAMPLED,
        ),
    )


def _composed(
    counts: Mapping[events.Leaf, int], fineness: int
) -> privacy_loss_distribution.PrivacyLossDistribution | None:
    refused = unsupported(counts)
    if refused is not None:
        raise ValueError(
            '`accountant` must be "rdp" for releases without a privacy loss distribution. '
            f"Received: event={refused.event!r}"
        )
    counts = {leaf: count for leaf, count in counts.items() if count}
    if not counts:
        return None
    mesh = _mesh(counts, fineness)
    if not mesh <= _WIDEST_MESH:
        raise UnwieldyError(f"mesh of {mesh}")
    parts = [_repeated(leaf, count, mesh) for leaf, count in counts.items()]
    result = parts[0]
    for part in parts[1:]:
        result = result.compose(part)
    return result


@functools.lru_cache(maxsize=16)
def _repeated(
    leaf: events.Leaf, count: int, mesh: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    event = leaf.event
    if isinstance(event, dp_accounting.GaussianDpEvent):
        # n Gaussian releases are one with sqrt(n) times less noise, exactly.
        return privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier / math.sqrt(count),
            value_discretization_interval=mesh,
            log_mass_truncation_bound=_LOG_MASS_CUT,
        )
    single = _single(leaf, mesh)
    return single if count == 1 else _self_composed(single, count)


def _self_composed(
    distribution: privacy_loss_distribution.PrivacyLossDistribution, count: int
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Composes a distribution with itself, if that can be done.

    `dp_accounting` may hold few points in a dictionary, and then raises their number to the power
    of `count`, which takes hours for a billion: so they are put into arrays first.
    """
    remove, add = distribution._pmf_remove, distribution._pmf_add
    parts = [pmf.to_dense_pmf() for pmf in ((remove,) if add is remove else (remove, add))]
    for part in parts:
        low, high = common.compute_self_convolve_bounds(part._probs, count, _TAIL)
        if count > _MOST_REPETITIONS or high - low > _MOST_POINTS:
            raise UnwieldyError(f"{count} releases")
    return privacy_loss_distribution.PrivacyLossDistribution(*parts).self_compose(count, _TAIL)


@functools.lru_cache(maxsize=32)
def _single(leaf: events.Leaf, mesh: float) -> privacy_loss_distribution.PrivacyLossDistribution:
    event = leaf.event
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return privacy_loss_distribution.from_laplace_mechanism(
            event.noise_multiplier, value_discretization_interval=mesh
        )
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        return _fixed_size(event, mesh)
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return _truncated(leaf, mesh)
    return _sampled_gaussian(event, mesh)


def _sampled_gaussian(
    event: dp_accounting.DpEvent, mesh: float, cut: float = _CUT
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Builds the distribution of a Gaussian on a Poisson sample, or on all examples.

    `dp_accounting` has it too, with a Python loop over the points that takes most of the time.
    """
    q, sigma = _parameters(event)
    lower, upper = _bounds(q, sigma, cut)
    first, last = math.floor(lower / mesh), math.ceil(upper / mesh)
    losses = mesh * np.arange(first, last + 1)
    remove = _from_curve(mesh, first, _delta_if_removed(q, sigma, losses))
    if q == 1.0:
        return privacy_loss_distribution.PrivacyLossDistribution(remove)
    add = _from_curve(mesh, -last, _delta_if_added(q, sigma, -losses[::-1]))
    return privacy_loss_distribution.PrivacyLossDistribution(remove, add)


def _from_curve(mesh: float, first: int, deltas: np.ndarray) -> pld_pmf.PLDPmf:
    """Connects the dots of the curve delta(epsilon) at consecutive multiples of the mesh.

    The chords lie above the curve; what lies beyond the last point counts as infinite loss.
    """
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        mesh, first, first + len(deltas) - 1, np.clip(deltas, 0.0, 1.0)
    )


@np.errstate(invalid="ignore")  # infinity less infinity, where the result is not used
def _delta_if_removed(q: float, sigma: float, epsilons: np.ndarray) -> np.ndarray:
    """Returns the curve of (1 - q) N(0, sigma^2) + q N(1, sigma^2) against N(0, sigma^2).

    It is q times that of the Gaussian at log(1 + (exp(epsilon) - 1) / q): theorem 8 of Balle,
    Barthe, Gaboardi (2018). Below log(1 - q) the loss is larger everywhere.
    """
    losses = _loss_if_sampled(q, epsilons)
    amplified = q * _gaussian_delta(sigma, losses)
    return np.where(losses > -np.inf, amplified, -np.expm1(epsilons))


@np.errstate(invalid="ignore")
def _delta_if_added(q: float, sigma: float, epsilons: np.ndarray) -> np.ndarray:
    """Returns the curve of the same distributions the other way round.

    At -log(1 - q) and above the loss is never so large.
    """
    losses = -_loss_if_sampled(q, -epsilons)
    rest = -np.expm1(epsilons + math.log1p(-q))
    return np.where(losses < np.inf, rest * _gaussian_delta(sigma, losses), 0.0)


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def _loss_if_sampled(q: float, losses: np.ndarray) -> np.ndarray:
    """Returns log(1 + (exp(loss) - 1) / q); what no sample can reach is minus infinity or NaN."""
    large = losses - math.log(q) + np.log1p((q - 1.0) * np.exp(-losses))
    return np.where(losses > 1.0, large, np.log1p(np.expm1(losses) / q))


def _gaussian_delta(sigma: float, epsilons: np.ndarray) -> np.ndarray:
    """Returns the curve of the Gaussian mechanism: theorem 8 of Balle and Wang (2018)."""
    shift = 0.5 / sigma
    return special.ndtr(shift - sigma * epsilons) - np.exp(
        epsilons + special.log_ndtr(-shift - sigma * epsilons)
    )


def _truncated(leaf: events.Leaf, mesh: float) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Mixes a batch with room and a full one: see `truncated_dp_sgd_event`."""
    roomy, overflow = events.without_capacity(leaf)
    full = events.with_less_noise(roomy, 0.5)
    return _sampled_gaussian(full.event, mesh, _rare_cut(overflow)).compute_mixture(
        _sampled_gaussian(roomy.event, mesh), overflow
    )


def _rare_cut(probability: float) -> float:
    """Cuts a distribution of small weight sooner: only the mass cut in total counts."""
    return math.sqrt(max(-2.0 * (_LOG_MASS_CUT - math.log(probability)), 1.0))


def _fixed_size(
    event: dp_accounting.SampledWithoutReplacementDpEvent, mesh: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Builds the distribution for exchanging one example: see `fixed_size_dp_sgd_event`.

    The curve of that theorem is the one of `_exchange` when removing, at every epsilon from 0 on.
    Exchanging is symmetric, which fixes the curve below 0.
    """
    q, sigma = _parameters(_exchange(event))
    last = math.ceil(_bounds(q, sigma, _CUT)[1] / mesh)
    epsilons = mesh * np.arange(last + 1)
    above = _delta_if_removed(q, sigma, epsilons)
    below = -np.expm1(-epsilons) + np.exp(-epsilons) * above
    return privacy_loss_distribution.PrivacyLossDistribution(
        _from_curve(mesh, -last, np.concatenate([below[:0:-1], above]))
    )


def _exchange(
    event: dp_accounting.SampledWithoutReplacementDpEvent,
) -> dp_accounting.PoissonSampledDpEvent:
    return dp_accounting.PoissonSampledDpEvent(
        event.sample_size / event.source_dataset_size,
        dp_accounting.GaussianDpEvent(event.event.noise_multiplier / 2.0),
    )


def _parameters(event: dp_accounting.DpEvent) -> tuple[float, float]:
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return event.sampling_probability, event.event.noise_multiplier
    return 1.0, event.noise_multiplier


def _mesh(counts: Mapping[events.Leaf, int], fineness: int) -> float:
    """Chooses the mesh.

    With one kind of release it does not depend on the count; with several it is rounded down to a
    power of two: either way growing counts go on with the distributions already held.

    A mesh h adds about h / loss to the variance of a release whose typical loss is below it, so
    the mesh is set by the releases that make up most of the total variance.
    """
    variance, weighted, widest = 0.0, 0.0, 0.0
    for leaf, count in counts.items():
        typical, width, times = _loss_scale(leaf, count)
        variance += times * typical**2
        weighted += times * typical
        widest = max(widest, width)
    span = variance + 20.0 * math.sqrt(variance)
    mesh = max(
        variance / weighted / fineness,
        widest / _RELEASE_POINTS[fineness],
        span / _COMPOSED_POINTS[fineness],
    )
    return mesh if len(counts) == 1 else 2.0 ** math.floor(math.log2(mesh))


def _loss_scale(leaf: events.Leaf, count: int) -> tuple[float, float, int]:
    """Returns the typical and the largest privacy loss of a release, and how often it counts."""
    event = leaf.event
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        loss = 1.0 / event.noise_multiplier
        return loss, loss, count
    if isinstance(event, dp_accounting.GaussianDpEvent):
        loss = math.sqrt(count) / event.noise_multiplier
        return loss, _CUT * loss + 0.5 * loss**2, 1
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        roomy, overflow = events.without_capacity(leaf)
        usual, width = _sampled_scale(roomy.event, _CUT)
        full = events.with_less_noise(roomy, 0.5).event
        unusual, unusual_width = _sampled_scale(full, _rare_cut(overflow))
        typical = math.hypot(math.sqrt(1.0 - overflow) * usual, math.sqrt(overflow) * unusual)
        return typical, max(width, unusual_width), count
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        event = _exchange(event)
    return *_sampled_scale(event, _CUT), count


def _sampled_scale(event: dp_accounting.DpEvent, cut: float) -> tuple[float, float]:
    q, sigma = _parameters(event)
    return q / sigma, max(_bounds(q, sigma, cut)[1], q / sigma)


def _bounds(q: float, sigma: float, cut: float) -> tuple[float, float]:
    """Returns the losses of a sampled Gaussian between which its noise is within the cut."""
    loss = cut / sigma + 0.5 / sigma**2
    upper = loss + math.log(q + (1.0 - q) * math.exp(-loss))
    return math.log1p(q * math.expm1(-loss)) if q < 1.0 else -loss, upper
