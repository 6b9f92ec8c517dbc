"""Per-example gradients of one variable, kept in the form that is cheapest to use.

The engine needs two things of a per-example gradient ``g`` of shape ``(batch, *variable)``: its
squared norms, of shape ``(batch,)``, and, once the clip factors ``c`` are known, the weighted sum
``sum_i c_i g_i``. Neither needs ``g`` itself, so each class here holds the factors that ``g`` is
made of and works both out from them.
"""

from __future__ import annotations

import abc
import math

import tensorflow as tf


def accumulation_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype of norms and sums for gradients of ``dtype``: at least float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Squared Euclidean norm of each row, of shape ``(batch,)``."""
    axes = list(range(1, tensor.shape.rank))
    return tf.reduce_sum(tf.square(tensor), axis=axes)


def scale_rows(tensor: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Multiplies row i by ``weights[i]``."""
    return tensor * tf.reshape(weights, [-1] + [1] * (tensor.shape.rank - 1))


class PerExampleGradient(abc.ABC):
    """Gradients of one variable, one for each example of a batch.

    Attributes:
        tensors: The factors, each with the batch as its first axis. The engine replaces rows of
            non-finite examples in this list by zeros before it asks for the weighted sum.
        method: How norms and sums are worked out, in a word, for ``clipping_summary()``.
        positions: How many outer products one example's gradient is a sum of (pixels, tokens).
        floats_per_example: Numbers held for one example beyond the layer's own activations.

    Example:
        >>> import tensorflow as tf
        >>> class OfScalar(PerExampleGradient):  # Of a variable with one number.
        ...     method = "scalar"
        ...     def squared_norm(self):
        ...         return self.tensors[0] ** 2
        ...     def weighted_sum(self, weights):
        ...         return tf.reduce_sum(weights * self.tensors[0])
        ...     def materialize(self):
        ...         return self.tensors[0][:, None]
        >>> gradient = OfScalar(tf.constant([3.0, 4.0]))
        >>> gradient.squared_norm().numpy(), gradient.merged(2).squared_norm().numpy()
        (array([ 9., 16.], dtype=float32), array([49.], dtype=float32))
    """

    method: str
    positions: int | None = 1
    floats_per_example: int = 0

    def __init__(self, *tensors: tf.Tensor):
        dtype = accumulation_dtype(tensors[0].dtype)
        self.tensors = [tf.cast(t, dtype) if t.dtype.is_floating else t for t in tensors]

    @abc.abstractmethod
    def squared_norm(self) -> tf.Tensor:
        """Squared Euclidean norms, of shape ``(batch,)``."""

    @abc.abstractmethod
    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        """``sum_i weights[i] * g[i]``, with the variable's weights in their order."""

    @abc.abstractmethod
    def materialize(self) -> tf.Tensor:
        """The gradients, ``(batch, ...)`` with the variable's weights in their order."""

    def joined(self, others: list[PerExampleGradient]) -> PerExampleGradient | None:
        """The sum of this and other gradients of the same variable, from a layer used again.

        Returns:
            The sum in a form that is cheaper than adding up instantiated gradients; ``None`` if
            there is none.
        """
        del others
        return None

    def merged(self, count: int) -> PerExampleGradient:
        """The gradients of examples of which each is so many consecutive rows here.

        Args:
            count: Rows to an example; their gradients are added up.
        """
        rows = self.materialize()
        rows = tf.reshape(rows, [-1, count, *rows.shape[1:]])
        return Instantiated(
            tf.reduce_sum(rows, 1), method=f"{self.method}, added up", positions=self.positions
        )


def as_positions(tensor: tf.Tensor, count: int, axes: int) -> tf.Tensor:
    """Makes so many consecutive rows one row, with all their positions.

    Args:
        tensor: Shape ``(rows, *rest)`` or ``(rows, positions, *rest)``.
        count: Rows to an example.
        axes: How many axes ``rest`` has.

    Returns:
        Shape ``(rows / count, count * positions, *rest)``.
    """
    positions = 1 if tensor.shape.rank == axes + 1 else tensor.shape[1]
    rest = tensor.shape[tensor.shape.rank - axes :]
    if positions is None:
        return tf.reshape(tensor, [tf.shape(tensor)[0] // count, -1, *rest])
    return tf.reshape(tensor, [-1, count * positions, *rest])


class Instantiated(PerExampleGradient):
    """Gradients that are held as they are.

    Args:
        gradient: Tensor of shape ``(batch, *variable)``.
        method: The word for the summary. Defaults to ``"instantiate"``.
        positions: Positions that were summed over, for the summary. Defaults to 1.

    Example:
        >>> gradient = Instantiated(tf.constant([[3.0, 4.0], [0.0, 1.0]]))
        >>> gradient.squared_norm().numpy()
        array([25.,  1.], dtype=float32)
    """

    def __init__(
        self, gradient: tf.Tensor, *, method: str = "instantiate", positions: int | None = 1
    ):
        super().__init__(gradient)
        self.method = method
        self.positions = positions
        self.floats_per_example = variable_size(gradient)

    def squared_norm(self) -> tf.Tensor:
        return sum_of_squares(self.tensors[0])

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        (gradient,) = self.tensors
        return tf.tensordot(tf.cast(weights, gradient.dtype), gradient, 1)

    def materialize(self) -> tf.Tensor:
        return self.tensors[0]


class OuterProduct(PerExampleGradient):
    """``g_i = left_i^T right_i``: the kernel of a dense layer.

    Args:
        left: Layer inputs, of shape ``(batch, features)`` or ``(batch, positions, features)``.
        right: Gradients of the layer's outputs, of shape ``(batch, units)`` or
            ``(batch, positions, units)``.

    With one position the norm is ``|left_i| |right_i|``. With several it comes either from the
    Gram matrices, ``sum_ts (left_i left_i^T)_ts (right_i right_i^T)_ts`` ("ghost" norm, Li et al.
    2022, section 4), or from the instantiated products, whichever costs less arithmetic.

    Example:
        >>> gradient = OuterProduct(tf.constant([[1.0, 2.0]]), tf.constant([[3.0]]))
        >>> gradient.method, gradient.squared_norm().numpy()
        ('closed form', array([45.], dtype=float32))

    References:
        - Li et al. 2022, "Large Language Models Can Be Strong Differentially Private Learners",
          arXiv:2110.05679.
    """

    #: Gram norms win while ``positions * (features + units) < RATIO * features * units``.
    RATIO = 0.6

    def __init__(self, left: tf.Tensor, right: tf.Tensor):
        super().__init__(left, right)
        features, units = left.shape[-1], right.shape[-1]
        if left.shape.rank == 2:
            self.method = "closed form"
            return
        self.positions = left.shape[1]
        if gram_is_cheaper(self.positions, features, units):
            self.method = "gram"
            self.floats_per_example = 2 * (self.positions or 0) ** 2
        else:
            self.method = "instantiate"
            self.floats_per_example = features * units

    def _instantiate(self) -> tf.Tensor:
        if len(self.tensors) == 2:
            self.tensors = [tf.matmul(self.tensors[0], self.tensors[1], transpose_a=True)]
        return self.tensors[0]

    def squared_norm(self) -> tf.Tensor:
        if self.method == "instantiate":
            return sum_of_squares(self._instantiate())
        left, right = self.tensors
        if self.method == "closed form":
            return sum_of_squares(left) * sum_of_squares(right)
        return gram_squared_norm(left, right)

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        if self.method == "instantiate":
            gradient = self._instantiate()
            return tf.tensordot(tf.cast(weights, gradient.dtype), gradient, 1)
        left, right = self.tensors
        weights = tf.cast(weights, right.dtype)
        if left.shape[-1] < right.shape[-1]:
            left = scale_rows(left, weights)
        else:
            right = scale_rows(right, weights)
        return tf.matmul(
            tf.reshape(left, [-1, left.shape[-1]]),
            tf.reshape(right, [-1, right.shape[-1]]),
            transpose_a=True,
        )

    def materialize(self) -> tf.Tensor:
        if self.method == "instantiate":
            return self._instantiate()
        left, right = self.tensors
        if left.shape.rank == 2:
            return left[:, :, None] * right[:, None, :]
        return tf.matmul(left, right, transpose_a=True)

    def joined(self, others: list[PerExampleGradient]) -> PerExampleGradient | None:
        parts = [self, *others]
        if not all(type(p) is type(self) and p.method != "instantiate" for p in parts):
            return None  # Of another kind, or cheaper to instantiate.
        return OuterProduct(
            *(tf.concat([as_positions(p.tensors[k], 1, 1) for p in parts], axis=1) for k in (0, 1))
        )

    def merged(self, count: int) -> PerExampleGradient:
        if len(self.tensors) != 2:  # Instantiated by now.
            return super().merged(count)
        return self._of_same_kind(*(as_positions(tensor, count, 1) for tensor in self.tensors))

    def _of_same_kind(self, left: tf.Tensor, right: tf.Tensor) -> OuterProduct:
        return OuterProduct(left, right)


class Summed(PerExampleGradient):
    """The gradient of a variable that was used more than once: the sum of its uses' gradients."""

    method = "shared: instantiate and add"

    def __init__(self, parts: list[PerExampleGradient]):
        gradients = [part.materialize() for part in parts]
        total = tf.add_n([tf.reshape(g, [tf.shape(g)[0], variable_size(g)]) for g in gradients])
        super().__init__(total)
        self.positions = None
        self.floats_per_example = total.shape[1]

    squared_norm = Instantiated.squared_norm
    weighted_sum = Instantiated.weighted_sum
    materialize = Instantiated.materialize


def variable_size(gradient: tf.Tensor) -> int:
    """How many weights a tensor of per-example gradients ``(batch, *variable)`` is about."""
    return math.prod(gradient.shape[1:])


def gram_is_cheaper(positions: int | None, features: int, units: int) -> bool:
    """Whether the Gram norm costs less than instantiating ``features x units`` per example."""
    if positions is None:
        return False
    return positions * (features + units) < OuterProduct.RATIO * features * units


def gram_squared_norm(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """``|left_i^T right_i|^2`` without forming the product; inputs ``(batch, positions, .)``."""
    left = tf.matmul(left, left, transpose_b=True)
    right = tf.matmul(right, right, transpose_b=True)
    # The sum is a squared norm; rounding may leave it a hair below zero.
    return tf.nn.relu(tf.reduce_sum(left * right, axis=[1, 2]))
