"""The vectorized DP-Keras optimizers.

The names and first arguments are those of tensorflow-privacy. An optimizer carries the parameters
of the Gaussian mechanism and applies gradients that were made private; clipping and noise belong
to the model that `tfdp.make_private` returns. On any other model these optimizers raise.
"""

from __future__ import annotations

import math

import keras

from tfdp import _validate
from tfdp.clipping import ClipBound
from tfdp.noise import DiscreteGaussianNoise, GaussianNoise


class DPOptimizerMixin:
    """What makes a Keras optimizer class a DP optimizer. See the classes below.

    Example:
        >>> import tfdp
        >>> optimizer = tfdp.optimizers.VectorizedDPKerasAdamOptimizer(0.5, noise_multiplier=2.0)
        >>> isinstance(optimizer, DPOptimizerMixin), optimizer.noise_stddev
        (True, 1.0)
    """

    _ema_warmup = False

    def _set_mechanism(
        self,
        l2_norm_clip,
        noise_multiplier,
        num_microbatches,
        automatic_gamma,
        noise_seed,
        secure_noise,
    ):
        self._clip_bound = ClipBound(l2_norm_clip, automatic_gamma)
        noise_multiplier = _validate.non_negative("noise_multiplier", noise_multiplier)
        if self._clip_bound.sensitivity == math.inf and noise_multiplier > 0:
            raise ValueError(
                "An infinite `l2_norm_clip` has no noise scale: use it only with "
                f"noise_multiplier=0. Received: noise_multiplier={noise_multiplier}"
            )
        if num_microbatches is not None:
            num_microbatches = _validate.integer("num_microbatches", num_microbatches, minimum=1)
        if noise_seed is not None:
            noise_seed = _validate.integer("noise_seed", noise_seed)
        if _validate.boolean("secure_noise", secure_noise):
            if noise_multiplier == 0:
                raise ValueError(
                    "Without noise there is none to make secure. "
                    "Received: secure_noise=True, noise_multiplier=0"
                )
            if noise_seed is not None:
                raise ValueError(
                    "Secure noise has no seed. "
                    f"Received: secure_noise=True, noise_seed={noise_seed}"
                )
        # The mechanism is read-only: compiled steps have it as constants.
        self._mechanism = {
            "l2_norm_clip": self._clip_bound.l2_norm_clip,
            "noise_multiplier": noise_multiplier,
            "num_microbatches": num_microbatches,
            "automatic_gamma": self._clip_bound.automatic_gamma,
            "noise_seed": noise_seed,
            "secure_noise": secure_noise,
        }

    @property
    def clip_bound(self) -> ClipBound:
        """How each example's gradient is bounded, and the sensitivity of their sum."""
        return self._clip_bound

    @property
    def l2_norm_clip(self) -> float | dict[str, float] | list[float]:
        """Bound on the norm of each example's gradient, over all layers or for each."""
        return self._mechanism["l2_norm_clip"]

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise as a multiple of ``l2_norm_clip``."""
        return self._mechanism["noise_multiplier"]

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on a sum of clipped gradients.

        Secure noise has a little more: see `tfdp.noise.DiscreteGaussianNoise`.
        """
        return self.noise_multiplier and self.noise_multiplier * self._clip_bound.sensitivity

    @property
    def num_microbatches(self) -> int | None:
        """Groups whose examples are averaged before clipping; ``None``: one example a group."""
        return self._mechanism["num_microbatches"]

    @property
    def noise_seed(self) -> int | None:
        """Fixed seed of the noise, for tests; ``None``: fresh noise."""
        return self._mechanism["noise_seed"]

    @property
    def secure_noise(self) -> bool:
        """Whether the noise is discrete, from the operating system's random bits."""
        return self._mechanism["secure_noise"]

    def make_noise(self) -> GaussianNoise | DiscreteGaussianNoise:
        """The source of the noise that steps of this optimizer get."""
        if self.secure_noise:
            return DiscreteGaussianNoise(self._clip_bound.sensitivity)
        return GaussianNoise(self.noise_seed)

    @property
    def ema_momentum(self):
        """Decay of the averaged weights; under ``ema_warmup`` that of the running step."""
        if not self._ema_warmup:
            return self._ema_momentum
        steps = keras.ops.cast(self.iterations, "float32")
        return keras.ops.minimum(self._ema_momentum, (1.0 + steps) / (10.0 + steps))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._ema_momentum = value

    def apply(self, grads, trainable_variables=None):
        """Refuses gradients from anywhere but a private model: they were not clipped and noised.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"{type(self).__name__} applies only gradients that were clipped and noised. Wrap "
            "the model: `private = tfdp.make_private(model)`, then compile and fit `private` "
            "with this optimizer."
        )

    def scale_loss(self, loss):
        """Refuses the training step of a model that is not private, which calls it.

        Raises:
            RuntimeError: Always.
        """
        return self.apply(loss)

    def apply_private_gradients(self, grads, trainable_variables) -> None:
        """Applies gradients that a private model has clipped, noised and averaged.

        Args:
            grads: One tensor a variable.
            trainable_variables: The variables.
        """
        super().apply(grads, trainable_variables)

    def get_config(self) -> dict:
        config = {**super().get_config(), **self._mechanism}
        return {**config, "ema_momentum": self._ema_momentum, "ema_warmup": self._ema_warmup}


def make_vectorized_keras_optimizer_class(cls: type) -> type:
    """Makes a DP optimizer class of any Keras optimizer class.

    Args:
        cls: A subclass of `keras.optimizers.Optimizer`.

    Returns:
        A class ``VectorizedDPKeras<Name>Optimizer(l2_norm_clip, noise_multiplier,
        num_microbatches=None, *args, **kwargs)``; further arguments go to ``cls``. It is
        registered with Keras under the package "tfdp". To load a model that was saved with a
        class made here (other than the three of this module), make the class first.

    Raises:
        TypeError: If ``cls`` is not a Keras optimizer class.

    Example:
        >>> import keras, tfdp
        >>> Lion = tfdp.optimizers.make_vectorized_keras_optimizer_class(keras.optimizers.Lion)
        >>> Lion(l2_norm_clip=1.0, noise_multiplier=1.1, learning_rate=1e-4).noise_multiplier
        1.1
    """
    if not (isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)):
        raise TypeError(f"cls must be a Keras optimizer class. Received: cls={cls!r}")
    if issubclass(cls, DPOptimizerMixin):
        return cls

    class VectorizedDPKerasOptimizer(DPOptimizerMixin, cls):
        def __init__(
            self,
            l2_norm_clip: float | dict[str, float] | list[float],
            noise_multiplier: float,
            num_microbatches: int | None = None,
            *args,
            automatic_gamma: float | None = None,
            noise_seed: int | None = None,
            ema_warmup: bool = False,
            secure_noise: bool = False,
            **kwargs,
        ):
            super().__init__(*args, **kwargs)
            self._ema_warmup = _validate.boolean("ema_warmup", ema_warmup)
            if ema_warmup and not self.use_ema:
                raise ValueError(
                    "There is no average of the weights to warm up without use_ema=True. "
                    "Received: ema_warmup=True"
                )
            if self.loss_scale_factor is not None:
                raise ValueError(
                    "Scaling the loss would scale gradients before they are clipped. "
                    f"Received: loss_scale_factor={self.loss_scale_factor}"
                )
            self._set_mechanism(
                l2_norm_clip,
                noise_multiplier,
                num_microbatches,
                automatic_gamma,
                noise_seed,
                secure_noise,
            )

    name = f"VectorizedDPKeras{cls.__name__}Optimizer"
    VectorizedDPKerasOptimizer.__name__ = name
    VectorizedDPKerasOptimizer.__qualname__ = name
    VectorizedDPKerasOptimizer.__doc__ = _DOCSTRING.format(base=cls.__name__)
    return keras.saving.register_keras_serializable(package="tfdp")(VectorizedDPKerasOptimizer)


_DOCSTRING = """`keras.optimizers.{base}` for models made private by `tfdp.make_private`.

    Args:
        l2_norm_clip: Bound C on the L2 norm of each example's gradient over all trainable
            variables together, positive. ``float("inf")`` is allowed with ``noise_multiplier=0``.
            A dictionary (layer name to number) or a list (a number for each layer that owns
            trainable weights) bounds each layer by itself; C is then the root of the summed
            squares.
        noise_multiplier: Standard deviation of the noise as a multiple of C, not negative. The
            noise on the sum of clipped gradients is ``N(0, (noise_multiplier * C)^2)`` a weight.
        num_microbatches: Number of groups whose examples are averaged before clipping. Defaults
            to ``None``, every example clipped by itself; a number below the batch size doubles
            the sensitivity, and the accounting knows it. It must divide the batch size. (To save
            memory use ``physical_batch_size`` of `tfdp.make_private`.)
        *args: Positional arguments of `keras.optimizers.{base}`.
        automatic_gamma: If given, each gradient g is scaled to ``C g / (|g| + automatic_gamma)``
            ("automatic" clipping, Bu et al. 2022) instead of cut at C. Defaults to ``None``.
        noise_seed: For tests only: fixes the noise, and the privacy statement then says "not
            private". Defaults to ``None``.
        ema_warmup: With ``use_ema=True``: whether the decay of the averaged weights grows with
            the steps t as ``min(ema_momentum, (1 + t) / (10 + t))``, so that the average soon
            forgets the initial weights. `keras.callbacks.SwapEMAWeights` evaluates it. Defaults
            to ``False``.
        secure_noise: Whether the noise is a discrete Gaussian on a grid, drawn by
            `tfdp.noise.DiscreteGaussianNoise` from the operating system's random bits, which the
            lowest bits of released numbers tell nothing about. On one replica, not on a TPU.
            Defaults to ``False``: `tfdp.noise.GaussianNoise`, the fast source.
        **kwargs: Keyword arguments of `keras.optimizers.{base}`: ``learning_rate``,
            ``use_ema``, ``ema_momentum``, ...

    Raises:
        ValueError: For a clip norm that is not positive, a negative noise multiplier, a
            ``loss_scale_factor``, secure noise with a seed or a noise multiplier of 0.
        RuntimeError: When it is used to train a model that is not private.

    Formal guarantee: each update is ``(sum_i clip_C(g_i) + N(0, (noise_multiplier C)^2 I)) / L``
    with ``L`` the expected batch size, followed by {base}'s own arithmetic, which is
    post-processing. With ``num_microbatches`` ``g_i`` is the mean gradient of a group and ``L`` the
    number of groups.

    Example:
        >>> import tfdp
        >>> optimizer = tfdp.optimizers.VectorizedDPKeras{base}Optimizer(
        ...     l2_norm_clip=0.5, noise_multiplier=1.1, learning_rate=0.1)
        >>> round(optimizer.noise_stddev, 2)
        0.55

    References:
        Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1,
        arXiv:1607.00133.
    """

VectorizedDPKerasSGDOptimizer = make_vectorized_keras_optimizer_class(keras.optimizers.SGD)
VectorizedDPKerasAdamOptimizer = make_vectorized_keras_optimizer_class(keras.optimizers.Adam)
VectorizedDPKerasAdagradOptimizer = make_vectorized_keras_optimizer_class(keras.optimizers.Adagrad)
