"""Strategies for training on several devices and hosts, by name.

    with tfdp.distribution.strategy("mirrored").scope():
        private = tfdp.make_private(build_model())
        private.compile(...)
    private.fit(x, y, batch_size=32_768, ...)

The mechanism is that of one device. Each of R replicas samples a share of its own of the examples
with the same probability, adds up their clipped gradients, adds noise of standard deviation
``noise_multiplier * sensitivity / sqrt(R)`` from a stream of its own, and divides by the expected
size of the *whole* batch. The sum over the replicas, which Keras works out before it applies an
update, is then the sum of one device: as many examples, noise of the same standard deviation. Noise
that by an error was the same on all replicas would add up to more than that, never to less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import tensorflow as tf

from tfdp import _validate
from tfdp._replicas import is_first_worker as is_first_worker

NAMES = ("none", "mirrored", "multi_worker", "tpu")
_CLUSTER_VARIABLE = "TF_CONFIG"


def strategy(
    name: str, *, devices: Sequence[str] | None = None, tpu: str | None = None
) -> tf.distribute.Strategy:
    """Makes a strategy to train under.

    | name | devices |
    | --- | --- |
    | ``"none"`` | one: the first GPU, else the CPU |
    | ``"mirrored"`` | those of this host: all its GPUs, else all its logical CPUs |
    | ``"multi_worker"`` | those of all hosts that the environment variable ``TF_CONFIG`` lists |
    | ``"tpu"`` | the cores of a TPU |

    Args:
        name: One of the names above.
        devices: For ``"mirrored"``: names of devices, as ``["GPU:0", "GPU:1"]``. Defaults to
            ``None``, all of them.
        tpu: For ``"tpu"``: the TPU's name or address, ``"local"`` on a TPU's own host. Defaults to
            ``None``: what the environment says, as on Colab.

    Returns:
        The strategy. Make and compile the model under its ``scope()``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no such strategy, an argument is for another one, or ``TF_CONFIG``
            is not what ``"multi_worker"`` needs.
        RuntimeError: If there is no TPU.

    Example:
        >>> import tfdp
        >>> tfdp.distribution.strategy("none").num_replicas_in_sync
        1

    References:
        - TensorFlow's guide "Distributed training with Keras", for ``TF_CONFIG`` and TPUs.
    """
    name = _validate.one_of("name", name, NAMES)
    for argument, value, belongs in (("devices", devices, "mirrored"), ("tpu", tpu, "tpu")):
        if value is not None and name != belongs:
            raise ValueError(
                f"`{argument}` is for strategy({belongs!r}). Received: name={name!r}, "
                f"{argument}={value!r}"
            )
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices(devices))
    if name == "multi_worker":
        _check_cluster(os.environ.get(_CLUSTER_VARIABLE))
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy(tpu)
    return tf.distribute.get_strategy()


def _devices(names: Sequence[str] | None) -> list[str]:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    if names is None:
        return [device.name for device in tf.config.list_logical_devices(kind)]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or not names:
        raise _validate.type_error("devices", names, "a list of names of devices, or None")
    known = [device.name for device in tf.config.list_logical_devices()]
    for name in names:
        if not any(full.endswith(name.upper().removeprefix("/")) for full in known):
            raise ValueError(
                f"There is no such device, only {', '.join(known)}. Received: devices={names!r}"
            )
    return list(names)


def _check_cluster(text: str | None) -> None:
    """Refuses a description of the cluster that TensorFlow would take for another one."""
    try:
        config = json.loads(text or "{}")
        workers, task = config["cluster"]["worker"], config["task"]
        right = (
            isinstance(workers, list)
            and all(isinstance(address, str) and ":" in address for address in workers)
            and task["type"] == "worker"
            and isinstance(task["index"], int)
            and 0 <= task["index"] < len(workers)
        )
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            f"strategy('multi_worker') needs the environment variable {_CLUSTER_VARIABLE}, the "
            "same for all workers but for the index: "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {_CLUSTER_VARIABLE}={text!r}'
        )


def _tpu_strategy(address: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu="" if address is None else _validate.text("tpu", address)
        )
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:  # A name is looked up on the network.
        raise RuntimeError(f"No TPU was found: {error}. Received: tpu={address!r}") from error
    return tf.distribute.TPUStrategy(resolver)
