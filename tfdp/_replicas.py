"""What training under a `tf.distribute.Strategy` needs: variables, data, and what is refused."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Options of Keras optimizers that act on gradients before these are added up over replicas.
_BEFORE_THE_SUM = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps")


def number_of_replica() -> tf.Tensor:
    """The running replica's number, from 0, among those of all workers; int64."""
    context = tf.distribute.get_replica_context()
    return tf.cast(0 if context is None else context.replica_id_in_sync_group, tf.int64)


def counter(value: int = 0, dtype: tf.DType = tf.int64) -> tf.Variable:
    """Counts what all replicas do together: each has a copy, and the first one's is read."""
    return _variable(value, dtype, tf.VariableAggregation.ONLY_FIRST_REPLICA)


def sum_over_replicas() -> tf.Variable:
    """Counts what each replica does by itself: outside of replicas the sum is read."""
    return _variable(0, tf.int64, tf.VariableAggregation.SUM)


def _variable(value: int, dtype: tf.DType, aggregation: tf.VariableAggregation) -> tf.Variable:
    # A copy for each replica: counting needs no communication, also inside of loops.
    with tf.init_scope():
        return tf.Variable(
            value,
            dtype=dtype,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=aggregation,
        )


def value_of(variable: tf.Variable) -> int:
    """What is counted, as seen from outside of the replicas."""
    return int(variable.read_value().numpy())


def as_on_one_device(function: Callable, tensors: list[tf.Tensor]) -> Any:
    """``function(tensors)``, worked out as if there were one replica.

    On several, Keras divides a loss by their number, if its reduction is a mean; what is clipped
    must be the gradient of the loss itself. A strategy is seen by the thread that entered it, so
    the function is traced in another one.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return function(tensors)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    graph = tf.function(function, autograph=False)
    with concurrent.futures.ThreadPoolExecutor(1) as other_thread:
        traced = other_thread.submit(graph.get_concrete_function, specs).result()
    return traced(tensors)


def as_logs(metrics: dict[str, Any], strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What a step returns: with several workers Keras averages over the first axis, so with one."""
    if workers_of(strategy) == 1:
        return metrics
    return keras.tree.map_structure(lambda value: tf.convert_to_tensor(value)[None], metrics)


def first_of(iterator: Any, strategy: tf.distribute.Strategy) -> Any:
    """A batch as one replica gets it, to build by; Keras would add up those of all replicas."""
    for _, _, batches in iterator:
        return keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], next(batches)
        )


def workers_of(strategy: tf.distribute.Strategy) -> int:
    """How many hosts train together."""
    resolver = strategy.cluster_resolver
    if resolver is None or isinstance(strategy, tf.distribute.TPUStrategy):
        return 1
    return max(1, len(resolver.cluster_spec().as_dict().get("worker", [])))


def is_first_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes what all workers have in common."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def distributed(data: Any, strategy: tf.distribute.Strategy) -> tf.distribute.DistributedDataset:
    """Endless batches of which each replica gets its share: `as_shares` of each worker."""

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        pipelines = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // pipelines
        return data.as_shares(context.input_pipeline_id, pipelines, replicas)

    return strategy.distribute_datasets_from_function(of_worker)


def check_parts(data: Any, strategy: tf.distribute.Strategy) -> None:
    """Refuses a part of the data where there are no others, or they are not what was said."""
    if not getattr(data, "is_part", False):
        return
    workers = workers_of(strategy)
    if workers == 1:
        raise ValueError(
            "`num_examples` is for training on several hosts, each with a part of the data. "
            f"Received: num_examples={data.num_examples} for {len(data.rows)} examples on one host"
        )
    if data.capacity is not None:
        raise ValueError(
            "Where the parts of the data can differ in size it is not known how often a sample of "
            "one is cut: leave out `num_examples`, with the same data on all hosts. "
            f"Received: capacity={data.capacity} and num_examples={data.num_examples}"
        )
    local = strategy.num_replicas_in_sync // workers
    here = tf.constant(len(data.rows), tf.float64) / local
    found = strategy.reduce("SUM", strategy.run(lambda: here), axis=None)
    if round(float(found)) != data.num_examples:
        raise ValueError(
            f"The parts of {workers} hosts have {float(found):.0f} examples together. "
            f"Received: num_examples={data.num_examples}"
        )


def check_strategy(strategy: tf.distribute.Strategy) -> None:
    """Refuses strategies that Keras 3 itself cannot `fit` under."""
    parameter_servers = tf.distribute.experimental.ParameterServerStrategy
    if isinstance(
        strategy,
        (
            parameter_servers,
            tf.compat.v1.distribute.experimental.ParameterServerStrategy,
            tf.distribute.experimental.CentralStorageStrategy,
        ),
    ):
        raise ValueError(
            "Keras 3 does not train under parameter servers or central storage. Take "
            "tfdp.distribution.strategy('mirrored') or ('multi_worker'). "
            f"Received: {type(strategy).__name__}"
        )


def check_optimizer(
    optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy
) -> None:
    """Refuses what on several replicas, or on a TPU, would be another mechanism than on one."""
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    if optimizer.secure_noise and (on_tpu or strategy.num_replicas_in_sync > 1):
        raise ValueError(
            "Secure noise is drawn by the processor of one host for one replica. Received: "
            f"secure_noise=True with {type(strategy).__name__}, "
            f"{strategy.num_replicas_in_sync} replicas"
        )
    if strategy.num_replicas_in_sync == 1:
        return
    for name in (*_BEFORE_THE_SUM, "num_microbatches"):
        if getattr(optimizer, name, None) is not None:
            raise ValueError(
                f"`{name}` would act on the share of each replica, not on their sum, and is not "
                f"supported on several. Received: {name}={getattr(optimizer, name)} with "
                f"{strategy.num_replicas_in_sync} replicas"
            )
    if not isinstance(optimizer.variables[0].value, tf.distribute.DistributedValues):
        raise ValueError(
            "The optimizer must be made under the strategy's scope(), as the model is. "
            f"Received: optimizer={optimizer.name!r}, made outside of it"
        )
