"""The parts of a private training step: from a batch to noisy gradients, and metrics of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdp import _replicas, _validate, clipping, sampling
from tfdp.mechanism import Mechanism
from tfdp.model_checks import has_layer_graph
from tfdp.noise import DiscreteGaussianNoise, GaussianNoise


class PrivateStep(keras.Model):
    """What one step of a `tfdp.PrivateModel` does; what steps cost is left to it.

    Args:
        model: The model that is trained.
        physical_batch_size: See `tfdp.make_private`, as the others.
        clipping: ``"auto"`` or ``"vectorized"``.
        augmentation: Makes views of examples, or ``None``.
        augmentation_multiplicity: How many.
        name: Of this model.
        kwargs: Of `keras.Model`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        physical_batch_size: int | None,
        clipping: str,
        augmentation: Callable | None,
        augmentation_multiplicity: int,
        name: str,
        **kwargs,
    ):
        # The wrapped model casts its inputs by its own policy.
        super().__init__(name=name, autocast=False, **kwargs)
        if physical_batch_size is not None:
            physical_batch_size = _validate.integer(
                "physical_batch_size", physical_batch_size, minimum=1, maximum=2**31 - 1
            )
        self.model = model
        self.built = model.built  # Weights can be loaded before the first call.
        self.clipping = _validate.one_of("clipping", clipping, ("auto", "vectorized"))
        self.physical_batch_size = physical_batch_size
        self._views = _views(augmentation, augmentation_multiplicity)
        self._compile_physical_step = False
        self._norm_metrics: list[keras.metrics.Metric] = []
        self._noise: DiscreteGaussianNoise | GaussianNoise | None = None
        self._engine: clipping.Engine | clipping.CompiledEngine | None = None
        self._data: sampling.PoissonDataset | sampling.DeclaredDataset | None = None
        self._nonfinite_examples = _replicas.sum_over_replicas()
        # Not a constant, because what an example holds is known only when the step is traced.
        self._physical_size = _replicas.counter(physical_batch_size or sampling.SMALLEST, tf.int32)

    def clipping_summary(self) -> str:
        """Which layer's gradients are worked out in which way, as a table.

        Raises:
            ValueError: If layers cannot be served, or if a subclassed model was not trained yet:
                the way depends on input shapes, which only its first step shows.
        """
        if self._engine is None or not self._engine.reports:
            self._trace_on_input_shapes()
        return clipping.summary_table(self._engine.reports)

    @property
    def examples_in_memory(self) -> int:
        """The size of a physical batch: what was given, or what the first step has chosen."""
        return _replicas.value_of(self._physical_size)

    # Before the first batch.

    @property
    def _replicas_in_sync(self) -> int:
        return self.distribute_strategy.num_replicas_in_sync

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Builds what is not built, before replicas run."""
        strategy = self._distribute_strategy
        if strategy is None:
            return  # Built when the first step is traced.
        if self._data is not None:
            data_batch = self._examples_like(sampling.Batch(None))
        elif iterator is not None:
            data_batch = _replicas.first_of(iterator, strategy)
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _examples_like(self, batch: sampling.Batch) -> tuple:
        """Examples of the shapes that the model gets, of which none need be read."""
        examples = self._data.first_examples(1) if batch.examples is None else batch.examples
        return examples if self._views is None else self._views(*examples)

    def _prepared(self, data: Any) -> sampling.Batch:
        """A batch, with everything built that its step needs."""
        if not isinstance(data, sampling.Batch):
            data = sampling.Batch(keras.utils.unpack_x_y_sample_weight(data))
        # Before the loop over physical batches, in which no variable can be created.
        self._symbolic_build(data_batch=self._examples_like(data))
        if self._engine is None:
            self._engine = self._make_engine()
        return data

    def _make_engine(self) -> clipping.Engine | clipping.CompiledEngine:
        bound = self.optimizer.clip_bound if self.compiled else clipping.ClipBound(math.inf)
        clipper = bound.resolve(self.model)
        if self.clipping == "vectorized":
            engine = clipping.VectorizedEngine(self.model, clipper, self._views)
        else:
            on_cpu = not tf.config.list_logical_devices("GPU")
            context = clipping.Context(loop=on_cpu and not self._compile_physical_step)
            plan = clipping.make_plan(self.model)
            engine = clipping.RecordingEngine(self.model, clipper, plan, context, self._views)
        if self._compile_physical_step:
            engine = clipping.CompiledEngine(engine, self.physical_batch_size or sampling.SMALLEST)
        return engine

    def _trace_on_input_shapes(self) -> None:
        if not (has_layer_graph(self.model) and self.model.built):
            raise ValueError(
                "The shapes of this model's inputs are not known before its first training step. "
                f"Received: model={self.model.name!r}, not trained yet"
            )
        if self._engine is None:
            self._engine = self._make_engine()
        is_sequential = isinstance(self.model, keras.Sequential)
        inputs = self.model.inputs[0] if is_sequential else self.model.input
        inputs = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), inputs)

        def outputs_summed(y, y_pred, sample_weight):
            flat = [tf.cast(t, tf.float32) for t in keras.tree.flatten(y_pred)]
            return tf.add_n([tf.reduce_sum(t, axis=range(1, t.shape.rank)) for t in flat])

        def trace(x):
            return self._engine(x, None, None, outputs_summed).norms

        tf.function(trace, autograph=False).get_concrete_function(inputs)

    # From a batch to an update.

    def _sum_clipped(self, batch: sampling.Batch, mechanism: Mechanism) -> list[tf.Tensor]:
        """The sum over a logical batch of what is clipped: examples, or means of groups."""
        loss_fn = clipping.PerExampleLoss(self._compile_loss)
        count, groups, leading = mechanism.num_groups, None, ()
        if count is not None:
            leading = (count,)
            length = sampling.batch_length(batch)
            if mechanism.random_groups:
                groups = tf.random.uniform([length], maxval=count, dtype=tf.int32)
            else:
                size = mechanism.expected_batch_size // count
                groups = tf.minimum(tf.range(length) // size, count - 1)

        def physical_step(part):
            part, part_groups = part
            if part_groups is None:
                summed = self._engine(*part.examples, loss_fn, valid=part.valid)
            else:
                summed = self._engine.sum_groups(*part.examples, loss_fn, part_groups, count)
            self._update_metrics(part, summed)
            return summed.sums

        def read(part, upcoming):
            (batch, groups), (next_batch, _) = part, upcoming
            examples = self._data.read(batch.indices, next_batch.indices)
            return batch._replace(examples=examples), groups

        static = batch.valid is not None
        sums = sampling.sum_over_physical_batches(
            (batch, groups),
            (self.physical_batch_size or sampling.SMALLEST) if static else self._physical_size,
            physical_step,
            [tf.zeros((*leading, *v.shape), v.dtype) for v in self.trainable_variables],
            read=read if batch.examples is None else None,
            # XLA compiles for one size, which no slice may exceed.
            approximate=self.physical_batch_size is None and not self._compile_physical_step,
            static=static,
        )
        if count is None:
            return sums
        size = mechanism.expected_batch_size // count
        return clipping.clip_group_means(sums, size, self.optimizer.clip_bound.resolve(self.model))

    def _apply_noisy(self, sums: list[tf.Tensor], mechanism: Mechanism) -> None:
        """Adds noise, divides by what is expected and updates the weights."""
        if self.physical_batch_size is None and not self._compile_physical_step:
            with tf.init_scope():
                floats = self._engine.floats_per_example
                self._physical_size.assign(sampling.choose_physical_batch_size(floats))
        # Keras adds up over replicas what the optimizer is given here, once a step.
        gradients = self._add_weight_regularization(self._noisy_means(sums, mechanism))
        self.optimizer.apply_private_gradients(gradients, self.trainable_variables)

    def _noisy_means(self, sums: list[tf.Tensor], mechanism: Mechanism) -> list[tf.Tensor]:
        """All that a step releases of its batch, from the sums of clipped gradients."""
        noisy = self._noise.add(sums, self.optimizer.noise_stddev, self._replicas_in_sync)
        return [total / mechanism.denominator for total in noisy]

    def _update_metrics(self, part: sampling.Batch, clipped: clipping.ClippedGradients) -> None:
        rows = (
            part.examples,
            clipped.y_pred,
            clipped.losses,
            clipped.norms,
            clipped.clipped,
            clipped.finite,
        )
        if part.valid is not None:
            rows = keras.tree.map_structure(
                lambda t: None if t is None else tf.boolean_mask(t, part.valid), rows
            )
        (x, y, sample_weight), y_pred, losses, norms, cut, finite = rows
        count = tf.reduce_sum(tf.cast(finite, losses.dtype))
        losses = tf.where(finite, losses, tf.zeros_like(losses))
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses), count)
        for penalty in self._weight_penalties():
            loss += tf.cast(penalty, loss.dtype)
        self._loss_tracker.update_state(loss, sample_weight=count)
        self._nonfinite_examples.assign_add(
            tf.reduce_sum(tf.cast(tf.logical_not(finite), tf.int64))
        )
        if self._norm_metrics:
            fraction, median = self._norm_metrics
            fraction.update_state(cut)
            median.update_state(_median(norms), sample_weight=tf.minimum(tf.shape(norms)[0], 1))
        if self._compile_loss.metrics:  # Losses of single outputs, which Keras shows.
            self._compile_loss(y, y_pred, sample_weight)
        self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _weight_penalties(self) -> list[tf.Tensor]:
        return [v.regularizer(v) for v in self.trainable_variables if v.regularizer is not None]

    def _add_weight_regularization(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Adds the gradients of weight regularizers, which no data enter: after the noise."""
        variables = self.trainable_variables
        if not any(variable.regularizer is not None for variable in variables):
            return gradients
        with tf.GradientTape() as tape:
            penalty = tf.add_n([tf.reduce_sum(p) for p in self._weight_penalties()])
        penalties = tape.gradient(penalty, [variable.value for variable in variables])
        share = 1 / self._replicas_in_sync
        return [
            gradient if extra is None else gradient + share * tf.cast(extra, gradient.dtype)
            for gradient, extra in zip(gradients, penalties, strict=True)
        ]


def _views(augmentation: Callable | None, multiplicity: int) -> sampling.Views | None:
    if augmentation is not None:
        return sampling.Views(augmentation, multiplicity)
    _validate.integer("augmentation_multiplicity", multiplicity, minimum=1)
    if multiplicity > 1:
        raise ValueError(
            "Several views of an example need an `augmentation` that makes them differ. "
            f"Received: augmentation=None, augmentation_multiplicity={multiplicity}"
        )
    return None


def _median(values: tf.Tensor) -> tf.Tensor:
    """Median of a vector; 0 if it is empty."""
    length = tf.shape(values)[0]
    values = tf.concat([tf.sort(values), tf.zeros([1], values.dtype)], 0)
    return (values[(length - 1) // 2] + values[length // 2]) / 2
