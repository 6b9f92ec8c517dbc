"""How much noise each time step of a diffusion has, and what the network predicts of it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from tfdp import _validate


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """A diffusion: ``noisy = signal_t * image + noise_t * noise``, for t in 0 to ``steps - 1``.

    ``signal_t ** 2 + noise_t ** 2 = 1``, so that images of unit variance keep it.

    | ``prediction`` | what the network is to predict |
    | --- | --- |
    | ``"velocity"`` | ``signal_t * noise - noise_t * image`` |
    | ``"noise"`` | ``noise`` |

    Args:
        steps: Time steps T of training. Defaults to 1000.
        kind: ``"cosine"`` or ``"linear"``, the latter with the variances of DDPM for 1000 steps,
            1e-4 to 0.02, scaled by ``1000 / steps``. Defaults to ``"cosine"``.
        prediction: ``"velocity"`` or ``"noise"``. The velocity weighs time steps more evenly and
            is defined where no signal is left. Defaults to ``"velocity"``.

    Raises:
        TypeError: If ``steps`` is no integer.
        ValueError: If an argument is out of range.

    Example:
        >>> import tfdp
        >>> schedule = tfdp.synthesis.NoiseSchedule()
        >>> schedule.signal_variance[[0, 500, 999]].round(2).tolist()
        [1.0, 0.49, 0.0]

    References:
        - Ho et al. 2020, arXiv:2006.11239, sections 2 and 4: the linear schedule, the noise.
        - Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.2: the cosine schedule.
        - Salimans and Ho 2022, arXiv:2202.00512, section 4: the velocity.
    """

    steps: int = 1000
    kind: str = "cosine"
    prediction: str = "velocity"

    def __post_init__(self):
        # 21 steps: with fewer, the scaled variances of the linear schedule exceed 1.
        object.__setattr__(self, "steps", _validate.integer("steps", self.steps, minimum=21))
        _validate.one_of("kind", self.kind, ("cosine", "linear"))
        _validate.one_of("prediction", self.prediction, ("velocity", "noise"))

    @functools.cached_property
    def signal_variance(self) -> np.ndarray:
        """The share of the image in the variance, alpha-bar in the papers, float64 ``(steps,)``."""
        if self.kind == "linear":
            scale = 1000 / self.steps
            return np.cumprod(1 - np.linspace(1e-4 * scale, 0.02 * scale, self.steps))
        curve = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
        # No step may take all that is left: at the end the curve is zero.
        return np.cumprod(np.maximum(curve[1:] / curve[:-1], 0.001))

    @property
    def signal(self) -> np.ndarray:
        """What the image is multiplied by at each step, float32 ``(steps,)``."""
        return np.sqrt(self.signal_variance).astype("float32")

    @property
    def noise(self) -> np.ndarray:
        """What the noise is multiplied by at each step, float32 ``(steps,)``."""
        return np.sqrt(1 - self.signal_variance).astype("float32")

    def get_config(self) -> dict:
        """The arguments that make an equal schedule: ``NoiseSchedule(**config)``."""
        return dataclasses.asdict(self)
