"""One step of DP-SGD as an event, for each way of drawing its batch.

| batch | event | amplified |
| --- | --- | --- |
| Poisson sample | `dp_sgd_event` | yes, most |
| Poisson sample cut to a capacity | `truncated_dp_sgd_event` | yes, hardly less |
| uniformly random subset of fixed size | `fixed_size_dp_sgd_event` | yes, less |
| anything else | `dp_sgd_event` with a sampling probability of 1 | no |
"""

import dp_accounting
from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent
from scipy import stats

from tfdp import _validate
from tfdp.accounting import events


def dp_sgd_event(
    noise_multiplier: float, sampling_probability: float, *, microbatch_size: int = 1
) -> dp_accounting.DpEvent:
    """Describes one step of DP-SGD: a noisy sum of clipped gradients over a Poisson sample.

    Each example enters the batch independently with probability `sampling_probability`; each
    contributes at most the clip norm C to the sum; Gaussian noise of standard deviation
    `noise_multiplier * C` is added.

    | arguments | event |
    | --- | --- |
    | `noise_multiplier` is 0 | `NonPrivateDpEvent` |
    | `sampling_probability` is 1 | `GaussianDpEvent`, no amplification |
    | otherwise | `PoissonSampledDpEvent` of a `GaussianDpEvent` |

    Args:
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: chance of each example to be in the batch, in [0, 1]: the expected
            batch size over the number of examples.
        microbatch_size: number of examples whose gradients are averaged *before* clipping.
            Defaults to 1, every example clipped by itself.

    Returns:
        The event, for `tfdp.accounting.PrivacyLedger.charge`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> dp_sgd_event(1.1, 0.01)
        PoissonSampledDpEvent(sampling_probability=0.01,
                              event=GaussianDpEvent(noise_multiplier=1.1))
        >>> dp_sgd_event(1.1, 1.0, microbatch_size=4)
        GaussianDpEvent(noise_multiplier=0.55)

    Formal guarantees:
        The neighbouring relation is adding or removing one example. With `microbatch_size` above
        1 one example replaces the clipped mean of its group by another clipped mean, so the sum
        moves by up to 2C: the event then holds half the noise multiplier.

    References:
        - Abadi et al. (2016), https://arxiv.org/abs/1607.00133
        - Mironov, Talwar, Zhang (2019), https://arxiv.org/abs/1908.10530
    """
    sigma = _validate.non_negative("noise_multiplier", noise_multiplier)
    q = _validate.probability("sampling_probability", sampling_probability)
    if _validate.integer("microbatch_size", microbatch_size, minimum=1) > 1:
        sigma /= 2.0
    if sigma == 0.0:
        return dp_accounting.NonPrivateDpEvent()
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    if q == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(q, gaussian)


def fixed_size_dp_sgd_event(
    noise_multiplier: float, batch_size: int, num_examples: int, *, microbatch_size: int = 1
) -> dp_accounting.DpEvent:
    """Describes one step of DP-SGD on a uniformly random subset of fixed size.

    Every step draws a *fresh* subset, whatever the steps before have drawn. Going through
    shuffled data batch by batch is something else.

    | arguments | event |
    | --- | --- |
    | `noise_multiplier` is 0 | `NonPrivateDpEvent` |
    | `batch_size` is `num_examples` | `GaussianDpEvent`, no amplification |
    | otherwise | `SampledWithoutReplacementDpEvent` of a `GaussianDpEvent` |

    Args:
        noise_multiplier: standard deviation of the noise over the clip norm C, 0 or above.
        batch_size: number of examples in every batch, in [1, `num_examples`].
        num_examples: number of examples to draw from, 1 or above.
        microbatch_size: as in `dp_sgd_event`. Defaults to 1.

    Returns:
        The event, for `tfdp.accounting.PrivacyLedger.charge`. Its noise multiplier is relative to
        C, as everywhere in tfdp, and not to the 2C by which exchanging an example moves the sum.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> event = fixed_size_dp_sgd_event(4.0, 512, 60_000)
        >>> event.source_dataset_size, event.sample_size, event.event
        (60000, 512, GaussianDpEvent(noise_multiplier=4.0))
        >>> fixed_size_dp_sgd_event(4.0, 512, 512)
        GaussianDpEvent(noise_multiplier=4.0)

    Formal guarantees:
        The number of examples is public. Neighbours differ in one example, which is replaced by
        an empty one whose gradient is zero, and the bounds are the least of

        - that for replacing it by any other. Whether the subset holds it or not, two subsets
          differ by one exchange, which moves the sum by up to 2C: the amplification theorems for
          sampling without replacement hold with half the noise multiplier. RDP is theorem 27 of
          Wang et al.; PLD is the curve delta(log(1 + q (e^epsilon - 1))) = q delta'(epsilon)
          of Balle et al., where delta' is that of the Gaussian and q is the sampled fraction.
        - that of the Gaussian on all examples. Under one and the same subset, replacing an
          example by an empty one moves the sum by at most C; averaging over subsets gains
          nothing back, as divergences are quasi-convex.

    References:
        - Balle, Barthe, Gaboardi (2018), theorem 9, https://arxiv.org/abs/1807.01647
        - Wang, Balle, Kasiviswanathan (2019), https://arxiv.org/abs/1808.00087
        - Zhu, Dong, Wang (2022), https://arxiv.org/abs/2106.08567
    """
    num_examples = _validate.integer("num_examples", num_examples, minimum=1)
    batch_size = _validate.integer("batch_size", batch_size, minimum=1, maximum=num_examples)
    gaussian = dp_sgd_event(noise_multiplier, 1.0, microbatch_size=microbatch_size)
    if batch_size == num_examples or not isinstance(gaussian, dp_accounting.GaussianDpEvent):
        return gaussian
    return dp_accounting.SampledWithoutReplacementDpEvent(num_examples, batch_size, gaussian)


def truncated_dp_sgd_event(
    noise_multiplier: float,
    sampling_probability: float,
    num_examples: int,
    capacity: int,
    *,
    microbatch_size: int = 1,
) -> dp_accounting.DpEvent:
    """Describes one step of DP-SGD on a Poisson sample, cut to a random subset if it is too large.

    Batches of bounded size let compiled programs and accelerators hold a fixed shape.

    | arguments | event |
    | --- | --- |
    | `noise_multiplier` is 0 | `NonPrivateDpEvent` |
    | `capacity` is at least `num_examples` | as `dp_sgd_event`: no batch is ever cut |
    | otherwise | `TruncatedSubsampledGaussianDpEvent` |

    Args:
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: chance of each example to be in the sample, in [0, 1].
        num_examples: number of examples to draw from, 1 or above.
        capacity: largest batch, 1 or above. A larger sample is cut to a uniformly random subset
            of this size.
        microbatch_size: as in `dp_sgd_event`. Defaults to 1.

    Returns:
        The event, for `tfdp.accounting.PrivacyLedger.charge`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> event = truncated_dp_sgd_event(1.1, 0.01, 60_000, capacity=800)
        >>> event.dataset_size, event.truncated_batch_size
        (60000, 800)
        >>> truncated_dp_sgd_event(1.1, 0.01, 60_000, capacity=60_000) == dp_sgd_event(1.1, 0.01)
        True

    Formal guarantees:
        Neighbours differ by adding or removing one example x; the larger has at most
        `num_examples` + 1. Let A be the sample of the other examples, tau the probability that A
        alone fills the capacity. A does not depend on x, so it may be revealed.

        - If A leaves room, x joins or not: the step is that of `dp_sgd_event`.
        - If A fills the capacity, the batch is a random subset of A in which x, with probability
          at most q, takes the place of another example: the sampled Gaussian at twice the
          sensitivity.

        PLD mixes the distributions of both cases with weights 1 - tau and tau. RDP takes the
        smaller epsilon of two bounds: the same mixture, by joint convexity of
        exp((order - 1) * divergence); and the Poisson bound at delta - T, where T is the sum of
        tau over all steps and bounds the chance that any batch at all is filled.

    References:
        - Tighter privacy analysis for truncated Poisson sampling (2025),
          https://arxiv.org/abs/2508.15089
    """
    event = dp_sgd_event(noise_multiplier, sampling_probability, microbatch_size=microbatch_size)
    num_examples = _validate.integer(
        "num_examples", num_examples, minimum=1, maximum=events.MAX_COUNT
    )
    capacity = _validate.integer("capacity", capacity, minimum=1, maximum=events.MAX_COUNT)
    if capacity >= num_examples or isinstance(event, dp_accounting.NonPrivateDpEvent):
        return event
    gaussian = event.event if isinstance(event, dp_accounting.PoissonSampledDpEvent) else event
    return TruncatedSubsampledGaussianDpEvent(
        num_examples, float(sampling_probability), capacity, gaussian.noise_multiplier
    )


def overflow_probability(num_examples: int, sampling_probability: float, capacity: int) -> float:
    """Returns the probability that a Poisson sample is larger than a capacity.

    Args:
        num_examples: number of examples to draw from, 1 or above.
        sampling_probability: chance of each example to be in the sample, in [0, 1].
        capacity: largest size that fits, 0 or above.

    Returns:
        The upper tail of the binomial distribution.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> f"{overflow_probability(60_000, 0.01, 700):.2e}"
        '2.87e-05'
    """
    return _tail(
        _validate.integer("capacity", capacity, minimum=0, maximum=events.MAX_COUNT),
        _validate.integer("num_examples", num_examples, minimum=1, maximum=events.MAX_COUNT),
        _validate.probability("sampling_probability", sampling_probability),
    )


def capacity_for(
    num_examples: int, sampling_probability: float, overflow_probability: float = 1e-12
) -> int:
    """Returns the smallest capacity that a Poisson sample rarely exceeds.

    Args:
        num_examples: number of examples to draw from, 1 or above.
        sampling_probability: chance of each example to be in the sample, in [0, 1].
        overflow_probability: chance of a larger sample that is tolerated in one step, in (0, 1).
            The chance over all steps should stay far below delta. Defaults to 1e-12.

    Returns:
        The capacity, in [0, `num_examples`].

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> capacity_for(60_000, 0.01)
        779
    """
    num_examples = _validate.integer(
        "num_examples", num_examples, minimum=1, maximum=events.MAX_COUNT
    )
    q = _validate.probability("sampling_probability", sampling_probability)
    tolerated = _validate.delta("overflow_probability", overflow_probability)
    too_small, enough = -1, num_examples
    while enough - too_small > 1:  # scipy's own inverse gives up on the smallest tails
        middle = (too_small + enough) // 2
        if _tail(middle, num_examples, q) <= tolerated:
            enough = middle
        else:
            too_small = middle
    return enough


def _tail(capacity: int, num_examples: int, q: float) -> float:
    return float(stats.binom.sf(capacity, num_examples, q))
