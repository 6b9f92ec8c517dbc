"""`make_private`: the Keras model whose training step is differentially private."""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _adapters, _replicas, _validate, accounting, sampling
from tfdp.mechanism import Mechanism, Releasing, Spending, mechanism_of
from tfdp.model_checks import check_model
from tfdp.optimizers import DPOptimizerMixin
from tfdp.private_step import PrivateStep


def make_private(
    model: keras.Model,
    *,
    physical_batch_size: int | None = None,
    clipping: str = "auto",
    expected_batch_size: int | None = None,
    augmentation: Callable | None = None,
    augmentation_multiplicity: int = 1,
) -> PrivateModel:
    """Makes a Keras model train with differential privacy (DP-SGD).

    The result is a `keras.Model` that shares the weights of ``model``: compile it with one of
    `tfdp.optimizers`, then ``fit``, ``evaluate`` and ``predict`` as usual. ``model`` stays the
    plain model that is saved and served.

    Args:
        model: A functional, sequential or subclassed `keras.Model`. It need not be built.
        physical_batch_size: Examples held in memory at a time. It changes cost alone: a batch of
            any size is summed from physical ones and noised once. Defaults to ``None``: about 64 to
            256 by what an example of the model holds, or fewer where 64 would need over 1 GiB, and
            up to half as many again where that saves cutting a batch.
        clipping: ``"auto"`` takes the cheapest exact way for each layer; ``"vectorized"``
            differentiates the whole model example by example with `tf.vectorized_map`: for any
            model, slow. Defaults to ``"auto"``.
        expected_batch_size: The batch size that sums are divided by in ``train_on_batch`` and
            custom training loops, where no data set can tell it. ``fit`` has it from its
            ``batch_size``. Defaults to ``None``.
        augmentation: Layer (of Keras, keras-cv, tfdp) or function that augments inputs in
            training, inside the compiled step. It must leave each example by itself. Defaults to
            ``None``.
        augmentation_multiplicity: Augmented views K of each example: the gradient of their mean
            loss is clipped, for the privacy of one view and the compute of K (De et al.
            2022). Defaults to 1.

    Returns:
        A `PrivateModel`.

    Raises:
        TypeError: If ``model`` is not a Keras model.
        ValueError: If the model has a layer that mixes examples (the message names the layer and
            the remedy) or a number is out of range.

    Formal guarantee: each training step releases
    ``(sum_i clip_C(g_i) + N(0, (noise_multiplier C)^2 I)) / expected_batch_size`` and nothing
    else of the training data, where ``g_i`` is the gradient of example i's own loss over all
    trainable variables together. Neighbouring data sets differ by adding or removing one example.
    Metrics of the training data (loss, accuracy) are not protected. With ``num_microbatches`` of
    the optimizer the sum is over clipped means of groups, and the divisor is their number; that
    doubles the sensitivity, which is accounted for. For shuffled data and subsets of fixed size
    neighbours are those of `tfdp.sampling.declare`.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> private = tfdp.make_private(model)
        >>> private.compile(
        ...     optimizer=tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        ...         l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=0.1),
        ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.zeros((100, 4)), np.zeros(100, "int32")
        >>> history = private.fit(x, y, batch_size=20, epochs=2, verbose=0)
        >>> round(private.ledger.epsilon(delta=1e-3), 2) > 0
        True

    References:
        - Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133.
        - De et al. 2022, "Unlocking High-Accuracy Differentially Private Image Classification
          through Scale", arXiv:2204.13650.
    """
    return PrivateModel(
        model,
        physical_batch_size=physical_batch_size,
        clipping=clipping,
        expected_batch_size=expected_batch_size,
        augmentation=augmentation,
        augmentation_multiplicity=augmentation_multiplicity,
    )


@keras.saving.register_keras_serializable(package="tfdp")
class PrivateModel(PrivateStep):
    """A Keras model with a differentially private training step. Made by `make_private`.

    It trains the weights of ``private.model``, the plain model, which is what to release.
    ``private.save`` saves this one: with the optimizer, the state of callbacks and the ledger, to
    go on training from. Loading weights joins the ledger of the file with the one that is there,
    so that nothing that was spent is forgotten. Noise is never saved.

    Args:
        model: As of `make_private`, as the next five.
        physical_batch_size: See there.
        clipping: See there.
        expected_batch_size: See there.
        augmentation: See there.
        augmentation_multiplicity: See there.
        name: Name of this model. Defaults to ``None``: ``private_`` and the name of ``model``.
        **kwargs: Of `keras.Model`.

    Raises:
        TypeError: As `make_private`.
        ValueError: As `make_private`; also if ``model`` was made under another distribution
            strategy than this one is.

    Formal guarantee: that of `make_private`.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> private = tfdp.make_private(model)
        >>> private.compile(
        ...     tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier=2.0), "mse")
        >>> history = private.fit(np.zeros((100, 4)), np.zeros((100, 2)), batch_size=10, verbose=0)
        >>> private.ledger.releases[0].count, round(private.ledger.epsilon(delta=1e-3), 2)
        (10, 0.56)
        >>> private.model is model  # what to release
        True
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        physical_batch_size: int | None = None,
        clipping: str = "auto",
        expected_batch_size: int | None = None,
        augmentation: Callable | None = None,
        augmentation_multiplicity: int = 1,
        name: str | None = None,
        **kwargs,
    ):
        check_model(model)
        if model.distribute_strategy is not tf.distribute.get_strategy():
            raise ValueError(
                "A model that was made under a strategy is made private under the same one's "
                "scope(). Received: a model of "
                f"{type(model.distribute_strategy).__name__}, under "
                f"{type(tf.distribute.get_strategy()).__name__}"
            )
        super().__init__(
            model,
            physical_batch_size=physical_batch_size,
            clipping=clipping,
            augmentation=augmentation,
            augmentation_multiplicity=augmentation_multiplicity,
            name=name or f"private_{model.name}",
            **kwargs,
        )
        if expected_batch_size is not None:
            expected_batch_size = _validate.integer(
                "expected_batch_size", expected_batch_size, minimum=1
            )
        self.expected_batch_size = expected_batch_size
        self._mechanism: Mechanism | None = None
        self._spending = Spending()
        self._traced_for: tuple | None = None
        #: What callbacks go on with after a resume, by name: saved with the weights, as JSON.
        self.callback_state: dict[str, dict] = {}
        self._loaded_adapters: dict[str, np.ndarray] = {}
        self._ledger_error: Exception | None = None

    # The model around the model.

    def build(self, input_shape=None) -> None:
        if not self.model.built:
            self.model.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def summary(self, *args, **kwargs) -> None:
        """Prints the summary of the wrapped model."""
        self.model.summary(*args, **kwargs)

    def get_config(self) -> dict:
        views = self._views
        return {
            "name": self.name,
            "model": keras.saving.serialize_keras_object(self.model),
            "physical_batch_size": self.physical_batch_size,
            "clipping": self.clipping,
            "expected_batch_size": self.expected_batch_size,
            "augmentation": views and keras.saving.serialize_keras_object(views.augmentation),
            "augmentation_multiplicity": 1 if views is None else views.multiplicity,
            # Keras keeps what layers say of themselves, and forgets it of single variables.
            "trainable_weights": [variable.trainable for variable in self.model.weights],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> PrivateModel:
        config = dict(config)
        model = keras.saving.deserialize_keras_object(
            config.pop("model"), custom_objects=custom_objects
        )
        augmentation = config.pop("augmentation", None)
        if augmentation is not None:
            augmentation = keras.saving.deserialize_keras_object(
                augmentation, custom_objects=custom_objects
            )
        trainable = config.pop("trainable_weights", [])
        if model.built and len(trainable) == len(model.weights):
            for variable, value in zip(model.weights, trainable, strict=True):
                variable.trainable = value
        return cls(model, augmentation=augmentation, **config)

    def get_compile_config(self) -> dict:
        config = super().get_compile_config()
        if config:
            config["jit_compile"] = self._compile_physical_step
            config["gradient_norm_metrics"] = bool(self._norm_metrics)
        return config

    def compile_from_config(self, config: dict) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def save_own_variables(self, store) -> None:
        self._restore_adapters()  # Or what was loaded and not yet put back would be lost.
        super().save_own_variables(store)
        for name, array in _adapters.arrays_for_training(self.model).items():
            store[name] = array
        store["ledger"] = np.frombuffer(self.ledger.to_json().encode(), dtype=np.uint8)
        if self.callback_state:
            state = json.dumps(self.callback_state).encode()
            store["callback_state"] = np.frombuffer(state, dtype=np.uint8)

    def load_own_variables(self, store) -> None:
        try:
            text = bytes(np.asarray(store["ledger"], dtype=np.uint8)).decode()
            self._spending.join(accounting.PrivacyLedger.from_json(text))
        except Exception as error:
            self._ledger_error = error  # Keras may pass over it: see `load_weights`.
            raise
        if "callback_state" in store.keys():
            state = bytes(np.asarray(store["callback_state"], dtype=np.uint8)).decode()
            self.callback_state = json.loads(state)
        names = [name for name in store.keys() if name.startswith("adapter_")]
        self._loaded_adapters = {name: np.asarray(store[name]) for name in names}

    def load_weights(self, filepath, *args, **kwargs) -> None:
        """Loads weights as Keras does; the ledger is joined, and LoRA adapters are restored.

        Args:
            filepath: As of `keras.Model.load_weights`.
            *args: As there.
            **kwargs: As there. ``skip_mismatch`` skips weights, never the ledger.

        Raises:
            ValueError: If the file holds no ledger, or one that was cut, damaged or edited. Weights
                may have been loaded by then, so the model is marked as not private.
        """
        self._ledger_error = None
        try:
            super().load_weights(filepath, *args, **kwargs)
        except ValueError:
            if self._ledger_error is None:
                raise
        if self._ledger_error is not None:
            self.ledger.mark_not_private("weights were loaded without their ledger")
            raise ValueError(
                f"The ledger of the weights cannot be read: {self._ledger_error!r}. "
                f"Received: filepath={str(filepath)!r}"
            ) from self._ledger_error
        self._restore_adapters()

    def _restore_adapters(self) -> None:
        """Puts adapters back that Keras, which comes to their layers last, has set to zero."""
        arrays, self._loaded_adapters = dict(self._loaded_adapters), {}
        if arrays:
            _adapters.assign_for_training(self.model, arrays)

    # Privacy.

    @property
    def ledger(self) -> accounting.PrivacyLedger:
        """The `tfdp.accounting.PrivacyLedger` of everything released by training so far."""
        return self._spending.ledger

    @property
    def mechanism(self) -> Mechanism:
        """One training step as the accounting sees it, as it is set up now.

        Within ``fit`` it is that of its data. Elsewhere, as in loops of one's own, batches are
        drawn in an unknown way.

        Raises:
            ValueError: Outside of ``fit``, if `make_private` was given no ``expected_batch_size``.
        """
        return self._current_mechanism()

    def remaining_steps(self, target_epsilon: float, delta: float, accountant: str = "rdp") -> int:
        """How many more training steps, as they are set up now, stay within a privacy budget.

        Args:
            target_epsilon: Epsilon not to exceed, 0 or above, possibly infinite.
            delta: In (0, 1).
            accountant: ``"rdp"`` or ``"pld"``. Defaults to ``"rdp"``.

        Returns:
            The number of steps: 0 if none fits, `sys.maxsize` if there is no limit.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If an argument is out of range. Outside of ``fit``, where callbacks ask: if
                `make_private` was given no ``expected_batch_size``.
        """
        return self._spending.remaining_steps(self.mechanism, target_epsilon, delta, accountant)

    def forgive_step(self) -> None:
        """Leaves the last step out of what is charged, for reproductions of other accountings.

        Raises:
            RuntimeError: If the ledger still claims a guarantee.
        """
        if not self.ledger.not_private_reasons:
            raise RuntimeError("A step can be left out only where no guarantee is claimed.")
        self._spending.segment_of(self.mechanism).forgive()

    def privacy_statement(self, delta: float) -> accounting.PrivacyStatement:
        """What is guaranteed, under which assumptions: print it, or ``.to_json()``.

        Args:
            delta: Probability with which the epsilon guarantee may fail, in (0, 1); well below one
                over the number of examples.

        Returns:
            A `tfdp.accounting.PrivacyStatement`.

        Raises:
            TypeError: If ``delta`` is not a number.
            ValueError: If it is out of range.
        """
        return self.ledger.statement(delta)

    # Training.

    def compile(
        self,
        optimizer: DPOptimizerMixin,
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = False,
        auto_scale_loss: bool = True,
        gradient_norm_metrics: bool = False,
    ) -> None:
        """Configures training, as `keras.Model.compile`.

        Args:
            optimizer: One of `tfdp.optimizers`.
            loss: As in Keras; each example's loss is the loss of a batch of that example alone.
            loss_weights: As in Keras.
            metrics: As in Keras. Metrics of training data are not protected by privacy.
            weighted_metrics: As in Keras.
            run_eagerly: As in Keras.
            steps_per_execution: As in Keras.
            jit_compile: Whether XLA compiles the work on a physical batch. Defaults to
                ``False``; ``"auto"`` is ``False`` too.
            auto_scale_loss: Accepted and not used: under ``mixed_float16`` norms and sums are
                float32, and scaling a loss would scale what is clipped.
            gradient_norm_metrics: Whether logs have ``clipped_fraction``, the share of examples
                whose gradient was cut, and ``gradient_norm_median``, the mean over physical
                batches of the median norm before clipping. They are not protected by privacy:
                for tuning on data that need no protection. Defaults to ``False``.

        Raises:
            ValueError: If the optimizer is not a DP optimizer, the loss is missing, or something
                does not work under the strategy that the model was made under.
        """
        del auto_scale_loss
        optimizer = keras.optimizers.get(optimizer)
        if not isinstance(optimizer, DPOptimizerMixin):
            raise ValueError(
                "A private model needs a DP optimizer, for instance tfdp.optimizers."
                f"VectorizedDPKerasSGDOptimizer. Received: optimizer={optimizer!r}"
            )
        if loss is None:
            raise ValueError("A private model needs a loss. Received: loss=None")
        _replicas.check_strategy(self.distribute_strategy)
        _replicas.check_optimizer(optimizer, self.distribute_strategy)
        steps_per_execution = _validate.integer(
            "steps_per_execution", steps_per_execution, minimum=1
        )
        if steps_per_execution > 1 and self._replicas_in_sync > 1:
            raise ValueError(
                "TensorFlow cannot reduce over replicas inside of the loop over several steps. "
                f"Received: steps_per_execution={steps_per_execution} with "
                f"{self._replicas_in_sync} replicas"
            )
        jit_compile = _validate.one_of("jit_compile", jit_compile, (True, False, "auto"))
        _validate.boolean("gradient_norm_metrics", gradient_norm_metrics)
        self._set_mechanism(None)
        self._compile_physical_step = jit_compile is True
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=optimizer,
                loss=loss,
                loss_weights=loss_weights,
                metrics=metrics,
                weighted_metrics=weighted_metrics,
                run_eagerly=run_eagerly,
                steps_per_execution=steps_per_execution,
                jit_compile=False,
                auto_scale_loss=False,
            )
            self._norm_metrics = []
            if gradient_norm_metrics:
                names = ("clipped_fraction", "gradient_norm_median")
                self._norm_metrics = [keras.metrics.Mean(name=name) for name in names]
            self._noise = optimizer.make_noise()
        self._engine = None  # Made when traced: it holds the clip norm and frozen layers.

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose="auto",
        callbacks=None,
        validation_split: float = 0.0,
        validation_data=None,
        shuffle: bool = True,
        class_weight: dict | None = None,
        sample_weight=None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq=1,
    ):
        """Trains privately on Poisson samples of arrays, otherwise as `keras.Model.fit`.

        Args:
            x: Arrays (NumPy, tensors, nested dictionaries or lists of them), a
                `tfdp.sampling.PoissonDataset`, or a `tf.data.Dataset` with its sampling said:
                `tfdp.sampling.declare`.
            y: Targets, as in Keras; ``None`` with one of the data sets.
            batch_size: *Expected* batch size: every example enters a batch independently with
                probability ``batch_size / num_examples``. Defaults to 32, or all of fewer.
            epochs: As in Keras.
            verbose: As in Keras.
            callbacks: As in Keras, for instance `tfdp.callbacks.PrivacyBudget`.
            validation_split: Fraction of the arrays, from their end, that is not trained on.
            validation_data: As in Keras. It is not protected by privacy.
            shuffle: Not used: Poisson samples have no order.
            class_weight: As in Keras.
            sample_weight: As in Keras. An example's weight scales its loss before clipping.
            initial_epoch: As in Keras.
            steps_per_epoch: Batches in an epoch. Defaults to ``num_examples / batch_size``,
                rounded up, or what the data set says.
            validation_steps: As in Keras.
            validation_batch_size: As in Keras.
            validation_freq: As in Keras.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: For data whose sampling is unknown, or arguments out of range.
        """
        self._assert_compile_called("fit")
        epochs = _validate.integer("epochs", epochs, minimum=0)
        initial_epoch = _validate.integer("initial_epoch", initial_epoch, minimum=0)
        data, validation_data = sampling.training_data(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            class_weight=class_weight,
            validation_split=validation_split,
            validation_data=validation_data,
        )
        steps_per_epoch = data.steps_of_epoch(steps_per_epoch, self.steps_per_execution)
        strategy = self._distribute_strategy  # `None` if the model was made under none.
        _replicas.check_parts(data, self.distribute_strategy)
        mechanism = self._mechanism_of(data.scheme_of(self._replicas_in_sync), data.seed)
        releases = [
            callback.release_with_each_step(self)
            for callback in _listed(callbacks)
            if isinstance(callback, Releasing)
        ]
        self._set_mechanism(
            dataclasses.replace(mechanism, companions=tuple(r for r in releases if r is not None)),
            data,
        )
        if strategy is None:
            batches = data.as_batches(steps_per_epoch)
            endless = batches.cardinality() == tf.data.INFINITE_CARDINALITY
        else:
            batches, endless = _replicas.distributed(data, strategy), True
        if verbose and not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = _with_last_epsilon(_listed(callbacks))
        nonfinite = _replicas.value_of(self._nonfinite_examples)
        try:
            history = super().fit(
                batches,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation_data,
                shuffle=False,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch if endless else None,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size or data.expected_batch_size,
                validation_freq=validation_freq,
            )
        finally:
            self._set_mechanism(None)  # Batches from elsewhere are drawn in an unknown way.
        nonfinite = _replicas.value_of(self._nonfinite_examples) - nonfinite
        if nonfinite:
            warnings.warn(
                f"{nonfinite} times an example's loss or gradient was not finite; it counted as "
                "zero in the sum of its batch.",
                stacklevel=2,
            )
        return history

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, return_dict: bool = False
    ):
        """One private step on a batch that the caller drew, otherwise as in Keras.

        The sum of clipped gradients is divided by the ``expected_batch_size`` given to
        `make_private`. How the batch was drawn is not known here, so each step is charged in full,
        without amplification by sampling.

        Raises:
            ValueError: If `make_private` was given no ``expected_batch_size``, or the model was
                made under a strategy with several replicas.
        """
        self._assert_compile_called("train_on_batch")
        if self._replicas_in_sync > 1:
            raise ValueError(
                "On several replicas a batch is shared out by `fit`. Received: a call of "
                f"train_on_batch with {self._replicas_in_sync} replicas"
            )
        self._use_batches_of_the_caller()
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def train_step(self, data):
        """One private step: clip, sum, add noise, divide by the expected batch size, apply."""
        mechanism = self.mechanism
        batch = self._prepared(data)
        self._spending.segment_of(mechanism).steps.assign_add(1)  # Before anything is released.
        self._apply_noisy(self._sum_clipped(batch, mechanism), mechanism)
        return _replicas.as_logs(self.get_metrics_result(), self.distribute_strategy)

    def test_step(self, data):
        """One step of evaluation, as in Keras."""
        return _replicas.as_logs(super().test_step(data), self.distribute_strategy)

    # What a step is.

    def _current_mechanism(self) -> Mechanism:
        if self._mechanism is None:
            self._use_batches_of_the_caller()
        return self._mechanism

    def _set_mechanism(self, mechanism: Mechanism | None, data=None) -> None:
        """Sets what a step is from now on; steps are compiled anew if it is something else."""
        self._spending.close()
        self._mechanism, self._data = mechanism, data
        with tf.init_scope():  # Loops of the caller come here when they are traced.
            self._restore_adapters()
        traced_for = mechanism, None if data is None else data.source
        if mechanism is not None and traced_for != self._traced_for:
            self._traced_for = traced_for
            self.train_function = None
            with self.distribute_strategy.scope():  # Its counter must be there before the trace.
                self._spending.segment_of(mechanism)

    def _use_batches_of_the_caller(self) -> None:
        if self.expected_batch_size is None:
            raise ValueError(
                "`train_on_batch` and custom training loops need the batch size that sums are "
                "divided by: `tfdp.make_private(model, expected_batch_size=...)`. "
                "Received: expected_batch_size=None"
            )
        scheme = sampling.Scheme("unknown", self.expected_batch_size)
        if self._mechanism is None or self._mechanism.scheme != scheme:
            self._set_mechanism(self._mechanism_of(scheme))

    def _mechanism_of(self, scheme: sampling.Scheme, sampling_seed: int | None = None) -> Mechanism:
        optimizer = self.optimizer
        for seed, reason in (
            (sampling_seed, "fixed sampling seed"),
            (optimizer.noise_seed, "fixed noise seed"),
        ):
            if seed is not None:
                self.ledger.mark_not_private(reason)
        mechanism = mechanism_of(optimizer, scheme)
        if mechanism.num_groups is not None and self._compile_physical_step:
            raise ValueError(
                "Groups of examples are not supported with jit_compile=True. "
                f"Received: num_microbatches={optimizer.num_microbatches}"
            )
        return mechanism


class _ProgressBar(keras.callbacks.ProgbarLogger):
    """Shows the last epsilon: before Keras 3.15 the bar shows means over the steps of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.progbar.stateful_metrics.add("epsilon")


def _with_last_epsilon(callbacks: list) -> list:
    """The callbacks, with a progress bar if Keras's own would show another epsilon."""
    averages = "stateless_metrics" not in inspect.signature(keras.utils.Progbar).parameters
    if not averages or any(
        isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks
    ):
        return callbacks
    return [*callbacks, _ProgressBar()]


def _listed(callbacks: Any) -> list:
    """The callbacks given to ``fit``, one by one."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
