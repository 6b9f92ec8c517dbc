"""Which weight matrices matter most for some private data: a selection with differential privacy.

Fine-tuning few matrices puts noise on few numbers. Each candidate is scored by the squared norms
of the clipped gradients of examples, the scores get noise, and the best are kept (DP-SAPF). The
selection is a release of its own and is charged beside the training that follows.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dp_accounting
import keras
import numpy as np
import tensorflow as tf

from tfdp import _entropy, _matrices, _validate, accounting, clipping, sampling
from tfdp._selection import Selection
from tfdp.model_checks import check_model
from tfdp.noise import GaussianNoise
from tfdp.sampling.rows import ArrayRows

__all__ = ["Selection", "select"]

MECHANISMS = ("gaussian", "exponential", "random", "all")

#: Attributes of attention layers for query, key, value and output: of Keras, of keras-cv's Stable
#: Diffusion, and of other implementations that follow one of the two usual ways to name them.
PROJECTIONS = (
    ("_query_dense", "_key_dense", "_value_dense", "_output_dense"),
    ("to_q", "to_k", "to_v", "out_proj"),
    ("to_q", "to_k", "to_v", "to_out"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
)


def select(
    model: keras.Model,
    loss: Any,
    data: tuple | None,
    *,
    fraction: float = 0.3,
    l2_norm_clip: float = 1.0,
    score_noise_multiplier: float | None = None,
    sampling_probability: float = 1.0,
    candidates: str | Sequence[str] | Callable[[keras.layers.Layer], bool] = "attention",
    mechanism: str = "gaussian",
    physical_batch_size: int | None = None,
    seed: int | None = None,
    verbose: int = 0,
) -> Selection:
    """Selects the weight matrices that matter most for private data.

    One Poisson sample S of the examples is drawn. For each example i in S the gradient g_i of its
    own loss over all candidate matrices together is clipped to the norm C (``l2_norm_clip``), and
    candidate m scores ``F[m] = sum_i |clip(g_i)_m|^2``. The ``max(1, floor(fraction * M))`` of M
    candidates with the highest noisy scores are kept; of equals the first.

    | mechanism | what is released | event |
    | --- | --- | --- |
    | ``"gaussian"`` | all scores with noise N(0, (noise multiplier * C^2)^2) | Gaussian, sampled |
    | ``"exponential"`` | the kept matrices, best first, and no scores | zCDP |
    | ``"random"`` | as many matrices, drawn evenly: a baseline | none: no data are read |
    | ``"all"`` | all matrices: a baseline | none: no data are read |

    Weights are not changed. Only candidates are trainable while gradients are taken, also those
    that were frozen; every ``trainable`` flag is as before afterwards, also after an error.

    Args:
        model: A plain built `keras.Model`: functional, sequential or subclassed.
        loss: What ``compile`` takes: a Keras loss, its name, or a function of targets and
            outputs. Not used by ``"random"`` and ``"all"``.
        data: ``(x, y)``: arrays or nested arrays with a common first axis, the examples. ``y`` may
            be ``None`` for a loss that ignores targets; it then gets zeros ``(batch,)``. Not used
            by ``"random"`` and ``"all"``.
        fraction: Share of the candidates to keep, in (0, 1]. Not used by ``"all"``. Defaults to
            0.3.
        l2_norm_clip: C, the norm that an example's gradient over all candidates is clipped to.
            Defaults to 1.
        score_noise_multiplier: Scale of the noise over the sensitivity C^2: standard deviation of
            the Gaussian noise, or scale of the Gumbel noise of ``"exponential"``; not negative.
            Must be given for these two.
        sampling_probability: Chance of each example to be in the sample, in (0, 1]. Defaults to 1.
        candidates: ``"attention"``: the kernels of query, key, value and output projections of
            attention layers; ``"all_matrices"``: of all Dense, EinsumDense, Embedding and
            convolution layers that can have adapters; a list of layer paths or unique names; or a
            function of such a layer that tells whether it is one. Biases never are. Defaults to
            ``"attention"``.
        mechanism: See above. Defaults to ``"gaussian"``.
        physical_batch_size: Examples held in memory at a time. It changes cost alone. Defaults to
            ``None``: chosen by what an example holds.
        seed: For tests only: fixes the sample and the noise. A ledger that the selection is
            charged to is then marked "not private". Defaults to ``None``: randomness from the
            operating system.
        verbose: 1 shows a progress bar over physical batches. Defaults to 0.

    Returns:
        A `Selection`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, the model is not built or mixes examples, there
            are no candidates, or one of them cannot have adapters.

    Formal guarantee: neighbouring data sets differ by adding or removing one example. Let
    ``s_i[m] = |clip(g_i)_m|^2``, so that ``F = sum_{i in S} s_i``.

    * *Sensitivity.* ``s_i[m] >= 0`` and ``sum_m s_i[m] = |clip(g_i)|^2 <= C^2``, as clipping is
      joint. One example more in the sample adds ``s_i`` to F, whose L1 norm is at most C^2; the L2
      norm is at most the L1 norm. The bound is kept in float64 for the numbers that are added up,
      however the gradients were rounded. An example with a non-finite loss or gradient adds zero.
    * *Gaussian.* F plus noise of standard deviation ``noise multiplier * C^2`` is a Gaussian
      mechanism of that noise multiplier on a Poisson sample, for any number of candidates. The
      order of the scores is post-processing.
    * *Exponential.* Adding Gumbel noise of scale ``b = noise multiplier * C^2`` to F and reporting
      the k largest in order equals k choices without replacement, each with probability
      proportional to ``exp(F[m] / b)`` (Durfee and Rogers 2019). One example more
      raises each F[m] by between 0 and C^2, so the privacy loss of a choice,
      ``(F'[m] - F[m]) / b - ln(Z' / Z)``, lies in an interval of width
      ``e = C^2 / b = 1 / noise multiplier``. By Hoeffding's lemma such a loss X of P against Q has
      ``ln E_P[exp(t X)] <= t E_P[X] + t^2 e^2 / 8``. At t = -1 the left side is 0, hence
      ``E_P[X] <= e^2 / 8``; at t = a - 1 the Renyi divergence of order a is at most ``a e^2 / 8``.
      Both directions hold alike, so a choice is ``e^2 / 8``-zCDP, and all of them are
      ``k / (8 * noise multiplier^2)``-zCDP together. Of the sampling no advantage is taken: a
      mixture over samples is at most as revealing as the worst of them. Noisy scores are not
      released, because this does not cover them.

    The sample and the noise must stay secret. The number of physical batches, a warning of
    non-finite examples and the time it takes are not protected.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="hidden"),
        ...                           keras.layers.Dense(3, name="logits")])
        >>> x, y = np.ones((100, 4)), np.zeros(100, "int32")
        >>> selection = tfdp.saliency.select(
        ...     model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), (x, y),
        ...     fraction=0.5, score_noise_multiplier=10.0, candidates="all_matrices")
        >>> len(selection.layers), sorted(selection.scores)
        (1, ['hidden', 'logits'])
        >>> tfdp.lora.enable(model, selection, rank=2)
        >>> private = tfdp.make_private(model)
        >>> selection.charge(private.ledger)
        >>> sigma = tfdp.accounting.noise_multiplier(
        ...     3.0, sampling_probability=0.1, steps=50, delta=1e-3, beside=selection.event)

    References:
        - DP-SAPF 2026, arXiv:2605.30312, and its code: the scores, the Gaussian mechanism. The
          code adds noise of standard deviation ``noise multiplier * C``, which is right for C = 1
          alone.
        - Durfee and Rogers 2019, "Practical Differentially Private Top-k Selection with
          Pay-what-you-get Composition", arXiv:1905.04273.
        - Cesar and Rogers 2021, "Bounding, Concentrating, and Truncating: Unifying Privacy Loss
          Composition for Data Analytics", arXiv:2004.07223: zCDP of the exponential mechanism.
    """
    mechanism = _validate.one_of("mechanism", mechanism, MECHANISMS)
    fraction = _validate.probability("fraction", fraction)
    if fraction == 0:
        raise _validate.value_error("fraction", fraction, "positive")
    clip = _validate.positive("l2_norm_clip", l2_norm_clip)
    if not 0 < clip * clip < math.inf:
        raise _validate.value_error(
            "l2_norm_clip", l2_norm_clip, "a number whose square is neither 0 nor infinite"
        )
    probability = _validate.probability("sampling_probability", sampling_probability)
    if probability == 0:
        raise _validate.value_error("sampling_probability", sampling_probability, "positive")
    reads_data = mechanism in ("gaussian", "exponential")
    if reads_data or score_noise_multiplier is not None:
        score_noise_multiplier = _validate.non_negative(
            "score_noise_multiplier", score_noise_multiplier
        )
    if physical_batch_size is not None:
        physical_batch_size = _validate.integer(
            "physical_batch_size", physical_batch_size, minimum=1, maximum=2**31 - 1
        )
    seed = None if seed is None else _validate.integer("seed", seed)
    verbose = _validate.one_of("verbose", verbose, (0, 1))
    layers = _candidates(_matrices.check_built(model), candidates)
    matrices = [_matrices.matrix_of(layer) for layer in layers.values()]
    kept = len(layers)
    if mechanism != "all":
        # 0.29 * 100 is a hair below 29.
        kept = max(1, math.floor(round(fraction * len(layers), 9)))
    key = tf.constant(_entropy.fresh_seed() if seed is None else (seed, 0), tf.int64)
    if reads_data:
        check_model(model)
        rows, loss_fn = _rows(data), _per_example_loss(loss)
        with _only_trainable(model, matrices):
            totals = _scores(
                model, matrices, rows, loss_fn, clip, probability, physical_batch_size, key, verbose
            )
    else:
        totals = tf.zeros([len(layers)], tf.float64)
    scores = None
    if mechanism == "gaussian":
        (noisy,) = GaussianNoise(seed).add([totals], score_noise_multiplier * clip**2)
        order = np.argsort(-noisy.numpy(), kind="stable")
        scores = {path: float(score) for path, score in zip(layers, noisy.numpy(), strict=True)}
    elif mechanism == "all":
        order = np.arange(len(layers))
    else:
        scale = 1.0 if mechanism == "random" else score_noise_multiplier * clip**2
        noisy = totals + scale * _gumbel(len(layers), key)
        order = np.argsort(-noisy.numpy(), kind="stable")
    paths = list(layers)
    chosen = [int(place) for place in order[:kept]]
    return Selection(
        layers=tuple(paths[place] for place in chosen),
        names=tuple(matrices[place].path for place in chosen),
        scores=scores,
        event=_event(mechanism, score_noise_multiplier, probability, kept),
        candidates=tuple(paths),
        fraction=fraction,
        mechanism=mechanism,
        l2_norm_clip=clip,
        not_private_reasons=(
            ("fixed seed of the selection",) if reads_data and seed is not None else ()
        ),
    )


def _event(
    mechanism: str, noise_multiplier: float | None, probability: float, kept: int
) -> dp_accounting.DpEvent:
    if mechanism in ("random", "all"):
        return dp_accounting.NoOpDpEvent()
    if mechanism == "gaussian":
        return accounting.dp_sgd_event(noise_multiplier, probability)
    if noise_multiplier == 0:
        return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.dp_event.ZCDpEvent(rho=kept / (8 * noise_multiplier**2))


def _candidates(model: keras.Model, candidates: Any) -> dict[str, keras.layers.Layer]:
    """Candidate layers by path, in the order of the model's variables."""
    layers = _matrices.layers_with_matrices(model)
    if isinstance(candidates, str):
        _validate.one_of("candidates", candidates, ("attention", "all_matrices"))
        if candidates == "attention":
            wanted = _projections(model)
        else:
            wanted = {id(x) for x in layers.values() if _matrices.obstacle(x) is None}
        paths = [path for path, layer in layers.items() if id(layer) in wanted]
    elif callable(candidates):
        paths = [
            path
            for path, layer in layers.items()
            if _validate.boolean("candidates", candidates(layer))
        ]
    else:
        chosen = _matrices.by_name(model, "candidates", candidates)
        paths = [path for path in layers if path in chosen]
    if not paths:
        raise ValueError(
            f"`candidates` must find a weight matrix among those of the layers {list(layers)}. "
            f"Received: candidates={candidates!r}, which finds none in model={model.name!r}"
        )
    return _matrices.by_name(model, "candidates", paths)


def _projections(model: keras.Model) -> set[int]:
    """Layers inside of the projections of attention layers, by identity."""
    found: set[int] = set()
    for layer in model._flatten_layers():
        for names in PROJECTIONS:
            parts = [getattr(layer, name, None) for name in names]
            if all(parts):
                # The output projection can be a list, with Dropout after the Dense layer.
                found.update(
                    id(inner)
                    for part in keras.tree.flatten(parts)
                    if isinstance(part, keras.layers.Layer)
                    for inner in part._flatten_layers()
                )
    return found


def _rows(data: Any) -> ArrayRows:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise _validate.type_error("data", data, "a pair (x, y) of arrays")
    try:
        rows = ArrayRows((*data, None))
        if data[1] is None:
            rows = ArrayRows((data[0], np.zeros(len(rows), "float32"), None))
    except (TypeError, ValueError) as error:
        raise type(error)(f"`data` must be a pair (x, y) of arrays: {error}") from None
    return rows


def _per_example_loss(loss: Any) -> clipping.PerExampleLoss:
    if loss is None:
        raise _validate.value_error("loss", loss, "a Keras loss, its name or a function")
    # What Keras makes of a loss, on a model of its own: the given one is not compiled anew.
    shell = keras.Model()
    try:
        shell.compile(loss=loss, jit_compile=False)
    except (TypeError, ValueError) as error:
        expected = f"a Keras loss, its name or a function ({error})"
        raise _validate.value_error("loss", loss, expected) from None
    return clipping.PerExampleLoss(shell._compile_loss)


@contextlib.contextmanager
def _only_trainable(model: keras.Model, variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Makes only these variables trainable for a while."""
    chosen = {id(variable) for variable in variables}
    layers = [(layer, layer.trainable) for layer in model._flatten_layers()]
    before = [(variable, variable.trainable) for variable in model.variables]
    try:
        for variable, _ in before:
            variable.trainable = id(variable) in chosen
        for layer, _ in layers:
            # Not by the public setter, which reaches all layers inside: a frozen batch
            # normalization must stay so.
            if any(id(variable) in chosen for variable in layer.variables):
                layer._trainable = True
        yield
    finally:
        for layer, trainable in layers:
            layer._trainable = trainable
        for variable, trainable in before:
            variable.trainable = trainable


def _scores(
    model: keras.Model,
    matrices: Sequence[keras.Variable],
    rows: ArrayRows,
    loss_fn: clipping.PerExampleLoss,
    clip: float,
    probability: float,
    physical_batch_size: int | None,
    key: tf.Tensor,
    verbose: int,
) -> tf.Tensor:
    """Sums of clipped squared norms over one Poisson sample, ``(matrices,)``, without noise."""
    x, y, _ = rows.first(1)
    loss_fn(y, model(x, training=False))  # Keras completes a loss when it sees its first outputs.
    context = clipping.Context(loop=not tf.config.list_logical_devices("GPU"))
    engine = clipping.RecordingEngine(
        model, clipping.ClipBound(clip).resolve(model), clipping.make_plan(model), context
    )
    place = {id(v): number for number, v in enumerate(model.trainable_variables)}
    places = [place[id(matrix)] for matrix in matrices]

    def of_batch(indices):
        x, y, sample_weight = rows.gather(indices)
        squared, finite = engine.squared_norms(x, y, sample_weight, loss_fn)
        shares = clipped_shares([squared[number] for number in places], finite, clip)
        nonfinite = tf.math.count_nonzero(tf.logical_not(finite))
        return tf.reduce_sum(shares, axis=0), nonfinite

    step = tf.function(
        of_batch, input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False
    ).get_concrete_function()
    size = physical_batch_size or sampling.choose_physical_batch_size(engine.floats_per_example)
    sample_key = tf.random.experimental.stateless_fold_in(key, tf.constant(1, tf.int64))
    indices = sampling.poisson_indices(len(rows), probability, sample_key)
    length = int(indices.shape[0])
    progress = keras.utils.Progbar(-(-length // size)) if verbose and length else None
    totals, dropped = tf.zeros([len(matrices)], tf.float64), 0
    for start in range(0, length, size):
        shares, nonfinite = step(indices[start : start + size])
        totals, dropped = totals + shares, dropped + int(nonfinite)
        if progress is not None:
            progress.add(1)
    if dropped:
        warnings.warn(
            f"{dropped} examples had a loss or gradient that was not finite; they count as zero "
            "in the scores.",
            stacklevel=3,
        )
    return totals


def clipped_shares(squared: Sequence[tf.Tensor], finite: tf.Tensor, clip: float) -> tf.Tensor:
    """Squared norms of the parts of jointly clipped gradients.

    Args:
        squared: For each matrix, squared norms ``(batch,)`` of its gradients before clipping.
        finite: Which examples count, ``(batch,)``.
        clip: The bound C.

    Returns:
        ``|clip(g_i)_m|^2`` of shape ``(batch, matrices)``, float64. Each row is not negative and
        sums to at most C^2, up to float64 rounding; rows that do not count are zero.
    """
    parts = tf.stack([tf.cast(part, tf.float64) for part in squared], axis=1)
    parts = tf.where(finite[:, None], parts, tf.zeros_like(parts))
    bound = tf.constant(clip**2, tf.float64)
    return parts * (bound / tf.maximum(tf.reduce_sum(parts, axis=1, keepdims=True), bound))


def _gumbel(count: int, key: tf.Tensor) -> tf.Tensor:
    """Independent standard Gumbel noise, float64, of a stream that nothing else uses."""
    own_key = tf.random.experimental.stateless_fold_in(key, tf.constant(2, tf.int64))
    smallest = np.finfo(
        "float64"
    ).tiny  # Uniform numbers are in [0, 1); of 0 there is no logarithm.
    uniform = tf.random.stateless_uniform([count], own_key, smallest, 1.0, tf.float64)
    return -tf.math.log(-tf.math.log(uniform))
