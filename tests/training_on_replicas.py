"""Trains under a strategy of this process, and prints what came of it as JSON.

    python tests/training_on_replicas.py REPLICAS    # logical processors under MirroredStrategy

Devices and workers are a matter of a whole process: so these are no test functions.
"""

import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import tfdp

NUMBERS = np.random.default_rng(0)
X, Y = NUMBERS.random((30, 6, 6, 1)).astype("float32"), NUMBERS.integers(0, 3, 30)
MEAN = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SUM = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


def cnn(dropout=0.0, regularizer=None):
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="tanh", kernel_regularizer=regularizer),
            keras.layers.Dropout(dropout),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def with_lora():
    model = cnn()
    model.layers[0].enable_lora(2)
    model.layers[-1].enable_lora(2)
    return model


def in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = cnn()
    keras.config.set_dtype_policy("float32")
    return model


def own_loss(y, y_pred):
    """Keras makes a loss with a reduction of a function."""
    return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def trained(
    strategy,
    build=cnn,
    loss=MEAN,
    clip=0.1,
    sigma=0.0,
    fit=(),
    private=(),
    compiled=(),
    **optimizer,
):
    """A model trained from the same weights on the same data: every batch is all of them."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = tfdp.make_private(build(), **dict(private))
        model.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
                clip, sigma, **{"learning_rate": 0.3, **optimizer}
            ),
            loss=loss,
            metrics=["accuracy"],
            **dict(compiled),
        )
    options = {"batch_size": len(X), "epochs": 2, "steps_per_epoch": 2, "verbose": 0, **dict(fit)}
    data = () if "x" in options else (X, Y)
    history = model.fit(*data, **options).history
    return model, history


def weights(model):
    return np.concatenate([np.asarray(value).ravel() for value in model.get_weights()])


UPDATES = {
    "clipped": {"learning_rate": 3.0},
    "not clipped": {"clip": 100.0},
    "a sum as loss": {"loss": SUM, "clip": 100.0},
    "a loss of one's own": {"loss": own_loss, "clip": 100.0},
    "momentum and regularizer": {
        "momentum": 0.9,
        "build": lambda: cnn(regularizer=keras.regularizers.L2(0.1)),
    },
    "averaged weights": {"use_ema": True, "ema_momentum": 0.9},
    "LoRA": {"build": with_lora, "clip": 1.0},
    "whole model vectorized": {"private": {"clipping": "vectorized"}, "clip": 1.0},
    "several physical batches": {"private": {"physical_batch_size": 2}},
}


def updates(strategy, one, names):
    """By how much the weights differ from those of one device, without noise."""
    found = {}
    for name in names:
        case = UPDATES[name]
        (many, history), (single, expected) = trained(strategy, **case), trained(one, **case)
        start, _ = trained(one, **{**case, "fit": {"epochs": 0}})
        found[name] = {
            "difference": float(np.abs(weights(many) - weights(single)).max()),
            "moved": float(np.abs(weights(single) - weights(start)).max()),
            "loss": [history["loss"][-1], expected["loss"][-1]],
            "accuracy": [history["accuracy"][-1], expected["accuracy"][-1]],
            "steps": [many.ledger.releases[0].count, single.ledger.releases[0].count],
        }
    return found


def noise(strategy):
    """Two steps of noise alone, in units of its standard deviation; and that of each replica."""

    def zeros():
        return keras.Sequential([keras.Input((50,)), keras.layers.Dense(60, use_bias=False)])

    with strategy.scope():
        model = tfdp.make_private(zeros())
        model.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, 3.0, learning_rate=1.0), loss="mse"
        )
    data = np.zeros((40, 50)), np.zeros((40, 60))
    steps, before = [], weights(model)
    for _ in range(2):
        model.fit(*data, batch_size=8, epochs=1, steps_per_epoch=1, verbose=0)
        after = weights(model)
        steps.append(((before - after) * 8 / (0.5 * 3.0)).tolist())
        before = after
    (variable,) = model.trainable_variables
    copies = [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
    return {
        "steps": steps,
        "replicas differ by": float(max(np.abs(copy - copies[0]).max() for copy in copies)),
        "epsilon": model.ledger.epsilon(1e-3),
        "epsilon of one device": tfdp.accounting.epsilon(3.0, 8 / 40, 2, 1e-3),
    }


def collectives(strategy):
    """Reductions over replicas in the graph of a step: in all, and inside of loops."""
    model, _ = trained(strategy, private={"physical_batch_size": 2}, fit={"epochs": 1})
    data = tfdp.sampling.PoissonDataset(X, Y, expected_batch_size=30)
    model._set_mechanism(model._mechanism_of(data.scheme), data)
    batch = tfdp.sampling.Batch((tf.constant(X), tf.constant(Y), None))
    step = tf.function(lambda: strategy.run(model.train_step, (batch,)), autograph=False)
    graph = step.get_concrete_function().graph.as_graph_def()

    def count(nodes):
        return sum(node.op.startswith(("Collective", "NcclAllReduce")) for node in nodes)

    inside = sum(count(function.node_def) for function in graph.library.function)
    return {"in all": count(graph.node) + inside, "in loops": inside}


def everything_else(strategy):
    """Runs what has to work, and collects the messages of what is refused."""
    found = {"works": {}, "refused": {}}
    source = tfdp.sampling.PoissonDataset.from_source(list(zip(X, Y, strict=True)))
    small = tfdp.sampling.PoissonDataset(X[:7], Y[:7], expected_batch_size=1)
    padded = tfdp.sampling.PoissonDataset(X, Y, expected_batch_size=8, capacity=16)
    declared = tfdp.sampling.declare(
        tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(30).batch(8),
        num_examples=30,
        batch_size=8,
        sampling="shuffled",
    )
    augmented = {"augmentation": tfdp.layers.RandomShift(1), "augmentation_multiplicity": 2}
    public = tfdp.sampling.public(X[:5], Y[:5])
    annealing = tfdp.callbacks.UpdateScreening(tfdp.callbacks.SimulatedAnnealing(), public)
    threshold = tfdp.callbacks.UpdateScreening(
        tfdp.callbacks.NoisyThreshold(sampling_probability=0.5), (X, Y)
    )
    budget = tfdp.callbacks.PrivacyBudget(2.0, 1e-3)
    folder = tempfile.mkdtemp()
    cases = {
        "source": {"fit": {"x": source, "batch_size": None, "steps_per_epoch": None}},
        "few": {"fit": {"x": small, "batch_size": None, "steps_per_epoch": None}},
        "capacity": {"fit": {"x": padded, "batch_size": None, "steps_per_epoch": None}},
        "compiled": {
            "fit": {"x": padded, "batch_size": None, "steps_per_epoch": None},
            "compiled": {"jit_compile": True},
        },
        "declared": {"fit": {"x": declared, "batch_size": None, "steps_per_epoch": None}},
        "dropout": {"build": lambda: cnn(dropout=0.5)},
        "mixed precision": {"build": in_bfloat16},
        "augmentation": {"private": augmented},
        "screening": {"fit": {"callbacks": [annealing], "batch_size": 8}},
        "screening by scores": {"fit": {"callbacks": [threshold], "batch_size": 8}},
        "budget": {"fit": {"callbacks": [budget], "batch_size": 8, "epochs": 100}},
        "backup": {"fit": {"callbacks": [tfdp.callbacks.BackupAndRestore(folder + "/backup")]}},
        "validation": {"fit": {"validation_data": (X, Y)}},
    }
    for name, case in cases.items():
        model, history = trained(strategy, sigma=2.0, **case)
        found["works"][name] = {
            "loss": history["loss"],
            "steps": int(model.optimizer.iterations.numpy()),
            "charged": sum(r.count for r in model.ledger.releases),
            "epsilon": model.ledger.epsilon(1e-3),
        }
    model, _ = trained(strategy, sigma=2.0)
    model.save_weights(folder + "/private.weights.h5")
    copy, _ = trained(strategy, sigma=2.0, fit={"epochs": 0})
    copy.load_weights(folder + "/private.weights.h5")
    found["works"]["saved"] = {
        "difference": float(np.abs(weights(copy) - weights(model)).max()),
        "charged": [sum(r.count for r in m.ledger.releases) for m in (model, copy)],
    }
    refused = {
        "clipnorm": lambda: trained(strategy, clipnorm=1.0),
        "gradient_accumulation_steps": lambda: trained(strategy, gradient_accumulation_steps=2),
        "steps_per_execution": lambda: trained(strategy, compiled={"steps_per_execution": 2}),
        "num_microbatches": lambda: trained(strategy, num_microbatches=5),
        "secure_noise": lambda: trained(strategy, sigma=1.0, secure_noise=True),
        "num_examples": lambda: trained(
            strategy,
            fit={
                "x": tfdp.sampling.PoissonDataset(X, Y, num_examples=90),
                "batch_size": None,
                "steps_per_epoch": None,
            },
        ),
        "train_on_batch": lambda: model.train_on_batch(X, Y),
        "optimizer": lambda: model.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0), loss="mse"
        ),
        "make_private": lambda: tfdp.make_private(model.model),
    }
    for name, call in refused.items():
        try:
            call()
            found["refused"][name] = None
        except ValueError as error:
            found["refused"][name] = str(error)
    return found


def main():
    replicas = int(sys.argv[1])
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    strategy = tfdp.distribution.strategy("mirrored")
    one = tfdp.distribution.strategy("none")
    assert strategy.num_replicas_in_sync == replicas
    names = list(UPDATES) if replicas == 2 else ["clipped", "not clipped"]
    found = {"updates": updates(strategy, one, names), "noise": noise(strategy)}
    if replicas == 2:
        found |= {"collectives": collectives(strategy), **everything_else(strategy)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
