"""What a training run would spend and cost, from a short measurement on this machine."""

import dataclasses
import sys
import time

import dp_accounting
import tensorflow as tf

import tfdp
from tfdp.scripts import train_accounting
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.train_settings import Settings

try:
    import resource
except ImportError:  # Windows does not tell what a process had at most.
    resource = None

# The measured step is made larger until it takes this long, or has the run's batch.
_SECONDS = 5.0
_FIRST = 4


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run needs.

    Attributes:
        steps: Training steps.
        steps_per_epoch: Of them in an epoch.
        noise_multiplier: The noise multiplier.
        sampling_probability: The sampling probability.
        epsilon: Epsilon by each accountant; `None` for a simulated run, which has none.
        delta: The delta of epsilon.
        batch_size: The expected batch size.
        views: Augmented views of each example.
        seconds: Time to train, without evaluation.
        measured_examples: Examples of the step that was measured.
        physical_batch_size: Examples in memory at a time, if the step has as many.
        bytes: The most memory in use in the measurement, by device; `None` if unknown.
    """

    steps: int
    steps_per_epoch: int
    noise_multiplier: float
    sampling_probability: float
    epsilon: dict[str, float] | None
    delta: float
    batch_size: int
    views: int
    seconds: float
    measured_examples: int
    physical_batch_size: int
    bytes: dict[str, int | None]

    def __str__(self) -> str:
        examples = self.steps * self.batch_size
        epsilon = "none: a simulated run is not private"
        if self.epsilon is not None:
            spent = (f"{value:.3f} ({name.upper()})" for name, value in self.epsilon.items())
            epsilon = f"{', '.join(spent)} at delta = {self.delta:g}"
        memory = ", ".join(
            f"{device} unknown" if size is None else f"{size / 2**30:.2f} GiB of {device}"
            for device, size in self.bytes.items()
        )
        held = min(self.measured_examples, self.physical_batch_size)
        views = "" if self.views == 1 else f", {self.views} views of each"
        return "\n".join(
            [
                "A dry run: nothing was trained or written.",
                f"steps      {self.steps:,}, {self.steps_per_epoch:,} in an epoch",
                f"noise      {self.noise_multiplier:.4f} at sampling probability "
                f"{self.sampling_probability:.6g}",
                f"epsilon    {epsilon}",
                f"examples   {examples:,}, {self.batch_size:,} in an expected batch{views}",
                f"memory     {memory}, with {held:,} of {self.physical_batch_size:,} examples of a "
                "physical batch",
                f"time       {_duration(self.seconds)} on this machine, without evaluation: "
                f"{1e3 * self.seconds / examples:.3g} ms an example, measured on "
                f"{self.measured_examples}",
            ]
        )


def estimate(
    private: tfdp.PrivateModel,
    settings: Settings,
    data: ImageData,
    batches: tfdp.sampling.PoissonDataset,
    noise_multiplier: float,
) -> Estimate:
    """Measures a step of a model that will not be trained further.

    Args:
        private: The compiled model; its ledger and learning rate are changed.
        settings: Of the run.
        data: The data.
        batches: As the run samples them.
        noise_multiplier: As the run adds it.
    """
    steps = settings.epochs * len(batches)
    replicas = private.distribute_strategy.num_replicas_in_sync
    step = train_accounting.step_event(batches, noise_multiplier, replicas)
    seconds, measured = _measured(private, data, batches.expected_batch_size)
    return Estimate(
        steps=steps,
        steps_per_epoch=len(batches),
        noise_multiplier=noise_multiplier,
        sampling_probability=batches.sampling_probability,
        epsilon=_epsilon(settings, batches, step, steps),
        delta=settings.delta,
        batch_size=batches.expected_batch_size,
        views=settings.augmentation_multiplicity,
        seconds=seconds / measured * steps * batches.expected_batch_size,
        measured_examples=measured,
        physical_batch_size=private.examples_in_memory,
        bytes=_peak_bytes(),
    )


def _measured(private: tfdp.PrivateModel, data: ImageData, batch_size: int) -> tuple[float, int]:
    """The seconds of a step, and its examples: as many as this takes to be told from noise."""
    private.optimizer.learning_rate = 0.0  # The noise of a run's step is too much for small ones.
    examples = min(batch_size, _FIRST)
    while True:
        first, _ = data.train.split(examples)
        all_of_them = first.poisson(expected_batch_size=examples, steps_per_epoch=1)
        times = []
        for _ in range(3):  # TensorFlow traces the first one.
            started = time.perf_counter()
            private.fit(all_of_them, epochs=1, verbose=0)
            times.append(time.perf_counter() - started)
        if min(times) >= _SECONDS or examples == batch_size:
            return min(times), examples
        examples = min(4 * examples, batch_size)


def _epsilon(
    settings: Settings,
    batches: tfdp.sampling.PoissonDataset,
    step: dp_accounting.DpEvent,
    steps: int,
) -> dict[str, float] | None:
    if settings.simulate_at is not None:
        return None
    beside = train_accounting.beside_steps(
        settings.screening, settings.statistics, batches.num_examples, steps
    )
    ledger = train_accounting.ledger_of(step, steps, beside)
    return {name: ledger.epsilon(settings.delta, name) for name in ("rdp", "pld")}


def _peak_bytes() -> dict[str, int | None]:
    """The most memory in use so far, by device."""
    peak = {"host memory": None}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak["host memory"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for gpu in tf.config.list_logical_devices("GPU"):
        peak[gpu.name.split("device:")[-1]] = tf.config.experimental.get_memory_info(gpu.name)[
            "peak"
        ]
    return peak


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
