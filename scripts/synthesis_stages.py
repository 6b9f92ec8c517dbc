"""The stages of `synthesize.py`: from public images to synthetic ones of a private data set."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import sys
from typing import Any

import dp_accounting
import keras
import numpy as np
import tensorflow as tf

try:
    import resource
except ImportError:  # Not on Windows.
    resource = None

import tfdp
from tfdp.scripts import read_files, train_checkpoint, whole_files
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.train_checkpoint import CheckpointEachEpoch, Run

#: What is tuned, by method: how `tfdp.saliency.select` chooses; `None`: it is not asked.
METHODS = {
    "sapf": "gaussian",
    "random": "random",
    "lora": "all",
    "full": None,
    "none": None,
}
#: The layer that says what a class is: tuned as a whole, as private classes are not public ones.
CLASSES = "class_embedding"
#: What is selected from, by the flag.
CANDIDATES = {
    "attention": "attention",
    "all_matrices": lambda layer: layer.name != CLASSES,
}
#: What another run may take over of `pretrain`.
PRETRAINED_FILES = ("pretrain.json", "pretrained.keras", "judge.keras")
#: Private steps to an epoch: there is a checkpoint after each.
STEPS_PER_EPOCH = 10
#: Real images that synthetic ones are compared with; nearest neighbours cost their square.
COMPARED = 10_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of `synthesize.py` that a result depends on."""

    public: list[str]
    public_images: int
    sensitive: str
    method: str
    target_epsilon: float
    delta: float | None
    candidates: str
    fraction: float
    score_noise_multiplier: float
    selection_probability: float
    selection_norm_clip: float
    rank: int
    pretrain_epochs: int
    pretrain_batch_size: int
    pretrain_learning_rate: float
    batch_size: int
    steps: int
    learning_rate: float
    l2_norm_clip: float
    automatic_gamma: float
    draws: int
    ema_decay: float
    num_images: int
    guidance: float
    sampling_steps: int
    pretrained: str | None
    inception_weights: str | None
    seed: int


#: What each stage depends on, beside all that the stages before it depend on.
_OWN = {
    "pretrain": (
        *("public", "public_images", "sensitive", "pretrain_epochs", "pretrain_batch_size"),
        *("pretrain_learning_rate", "pretrained", "seed"),
    ),
    "select": (
        *("method", "target_epsilon", "delta", "candidates", "fraction"),
        *("score_noise_multiplier", "selection_probability", "selection_norm_clip"),
    ),
    "finetune": (
        *("rank", "batch_size", "steps", "learning_rate", "l2_norm_clip", "automatic_gamma"),
        *("draws", "ema_decay"),
    ),
    "sample": ("num_images", "guidance", "sampling_steps"),
    "evaluate": ("inception_weights",),
}


def settings_of(stage: str, settings: Settings) -> dict[str, Any]:
    """The settings that the outcome of a stage depends on."""
    stages = list(_OWN)
    names = [name for s in stages[: stages.index(stage) + 1] for name in _OWN[s]]
    return {name: getattr(settings, name) for name in names}


class Data:
    """Public images, in the form of the sensitive ones, and these.

    Args:
        public: Public sets. Their classes are numbered one after another; those of the sensitive
            set take the places of the first.
        sensitive: The set to protect.
        public_images: The first so many images of each public set; 0: all.
    """

    def __init__(self, public: list[ImageData], sensitive: ImageData, public_images: int = 0):
        self._public = public
        self._most = public_images or None
        self.sensitive = sensitive
        self.shape = sensitive.image_shape
        self.num_classes = sum(data.num_classes for data in public)

    @functools.cached_property
    def public(self) -> tuple[np.ndarray, np.ndarray]:
        """The public training images, floats in [0, 1], and their labels."""
        images, labels, first = [], [], 0
        for data in self._public:
            x, y = data.train.arrays()
            images.append(_in_form(np.asarray(x[: self._most]), self.shape))
            labels.append(np.asarray(y[: self._most]) + first)
            first += data.num_classes
        return np.concatenate(images), np.concatenate(labels).astype("int32")

    @property
    def public_name(self) -> str:
        """Of the public sets together."""
        return " and ".join(data.name for data in self._public)

    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """The sensitive training images, floats in [0, 1], and their labels."""
        return self.sensitive.train.arrays()

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Images of the same kind that nothing was trained on."""
        return self.sensitive.test.arrays()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the private stages release.

    Attributes:
        selection: The event of the selection.
        noise_multiplier: Of each step of fine-tuning.
        sampling_probability: Of each image in a step.
        steps: Of fine-tuning.
    """

    selection: dp_accounting.DpEvent
    noise_multiplier: float
    sampling_probability: float
    steps: int


def plan(settings: Settings, num_examples: int) -> Plan:
    """How the budget is shared out.

    Raises:
        UsageError: If the selection alone is more than the budget.
    """
    steps = -(-settings.steps // STEPS_PER_EPOCH) * STEPS_PER_EPOCH
    probability = settings.batch_size / num_examples
    event = dp_accounting.NoOpDpEvent()
    if METHODS[settings.method] == "gaussian":
        event = tfdp.accounting.dp_sgd_event(
            settings.score_noise_multiplier, settings.selection_probability
        )
    if settings.method == "none":
        return Plan(event, 0.0, probability, 0)
    try:
        noise = tfdp.accounting.noise_multiplier(
            settings.target_epsilon, probability, steps, settings.delta, beside=event
        )
    except ValueError as error:
        raise UsageError(
            f"--score_noise_multiplier: the selection alone is too much. {error} "
            f"Received: score_noise_multiplier={settings.score_noise_multiplier}"
        ) from error
    return Plan(event, noise, probability, steps)


def pretrain(settings: Settings, data: Data, _: Plan, folder: str, verbose: int) -> dict[str, Any]:
    """Trains the network, and the judge of its images, on public images, or takes what is there."""
    network_path, judge_path = (_path(folder, name) for name in ("pretrained.keras", "judge.keras"))
    if settings.pretrained is not None:
        judge_name = _judge_name(_path(settings.pretrained, "pretrain.json"))
        network, judge = (
            _network(_path(settings.pretrained, os.path.basename(path)))
            for path in (network_path, judge_path)
        )
        if tuple(network.output_shape[1:]) != data.shape:
            raise UsageError(
                f"--pretrained makes images of the shape {network.output_shape[1:]}, those of "
                f"{settings.sensitive} have {data.shape}. Received: {settings.pretrained!r}"
            )
        classes = network.get_layer(CLASSES).input_dim - 1  # And one for "no class".
        if classes != data.num_classes:
            raise UsageError(
                f"--pretrained is of {classes} classes, those of --public are {data.num_classes}. "
                f"Received: public={','.join(settings.public)}"
            )
        _save(network, network_path)
        _save(judge, judge_path)
        return {"pretrained_weights": network.count_params(), "judge": judge_name}
    keras.utils.set_random_seed(settings.seed)
    network = tfdp.synthesis.attention_unet(data.shape, data.num_classes)
    denoiser = _denoiser(network, data)
    images, labels = data.public
    steps = settings.pretrain_epochs * math.ceil(len(images) / settings.pretrain_batch_size)
    warmup = steps // 20
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=settings.pretrain_learning_rate, warmup_steps=warmup
    )
    denoiser.compile(
        keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.99),
        loss=tfdp.synthesis.DenoisingLoss(),
    )
    history = denoiser.fit(
        _inputs(images, labels),
        batch_size=settings.pretrain_batch_size,
        epochs=settings.pretrain_epochs,
        callbacks=[keras.callbacks.BackupAndRestore(_path(folder, "pretraining"))],
        verbose=verbose,
    )
    _save(network, network_path)
    judge = tfdp.synthesis.classifier_features(
        data.public_name, tfdp.sampling.public(images, labels), seed=settings.seed
    )
    _save(judge.model, judge_path)
    return {
        "public_images": len(images),
        "pretrained_weights": network.count_params(),
        "pretrain_loss": history.history.get("loss", []),
        "judge": judge.name,
    }


def select(settings: Settings, data: Data, plan: Plan, folder: str, verbose: int) -> dict[str, Any]:
    """Selects the matrices to tune."""
    mechanism = METHODS[settings.method]
    if mechanism is None:
        return {"selected": None}
    denoiser = _denoiser(_network(_needed(folder, "pretrained.keras", "pretrain")), data)
    images, labels = data.train()
    reads_data = mechanism == "gaussian"
    if os.path.exists(_path(folder, "selection.json")):
        # A crash came before the stage was noted down: to select again would be a second release.
        selection = _selection(folder)
    else:
        selection = tfdp.saliency.select(
            denoiser,
            tfdp.synthesis.DenoisingLoss() if reads_data else None,
            (_inputs(images, labels), None) if reads_data else None,
            candidates=CANDIDATES[settings.candidates],
            fraction=settings.fraction,
            l2_norm_clip=settings.selection_norm_clip,
            score_noise_multiplier=settings.score_noise_multiplier if reads_data else None,
            sampling_probability=settings.selection_probability,
            mechanism=mechanism,
            verbose=int(verbose == 1),
        )
    if selection.event != plan.selection:
        raise UsageError(
            f"--output_dir has a selection with other flags, which cost {selection.event} and not "
            f"{plan.selection}: take another folder. Received: output_dir={folder!r}"
        )
    with whole_files.replacing(_path(folder, "selection.json")) as path, open(path, "w") as file:
        file.write(selection.to_json())
    if selection.scores is not None:
        with whole_files.replacing(_path(folder, "selection.png")) as path:
            selection.plot(path)
    return {"selected": list(selection.layers), "candidates": len(selection.candidates)}


def finetune(
    settings: Settings, data: Data, plan: Plan, folder: str, verbose: int
) -> dict[str, Any]:
    """Tunes the network on the sensitive images, privately."""
    network = _network(_needed(folder, "pretrained.keras", "pretrain"))
    denoiser = _denoiser(network, data)
    private = tfdp.make_private(denoiser, **tfdp.synthesis.noise_multiplicity(settings.draws))
    if METHODS[settings.method] is not None:
        selection = _selection(folder)
        tfdp.lora.enable(denoiser, selection, settings.rank)
        network.get_layer(CLASSES).trainable = True
    else:
        selection = None
    trainable = tfdp.lora.trainable_parameters(denoiser) if plan.steps else 0
    if plan.steps:
        _fit(private, selection, settings, data, plan, folder, verbose)
        if selection is not None:
            tfdp.lora.merge(denoiser)
    statement = private.privacy_statement(settings.delta)
    _save(network, _path(folder, "finetuned.keras"))
    for name, text in (("ledger.json", private.ledger.to_json()), ("statement.txt", statement)):
        with whole_files.replacing(_path(folder, name)) as path, open(path, "w") as file:
            file.write(f"{text}\n")
    return {
        "trainable_parameters": trainable,
        "peak_memory_mib": _peak_memory_mib(),
        "noise_multiplier": plan.noise_multiplier,
        "steps": plan.steps,
        "epsilon": {
            accountant: private.ledger.epsilon(settings.delta, accountant)
            for accountant in ("rdp", "pld")
        },
        "epsilon_of_selection": _epsilon_of(plan.selection, settings.delta),
        "epsilon_of_finetuning": _epsilon_of(_steps_event(plan), settings.delta),
    }


def sample(settings: Settings, data: Data, _: Plan, folder: str, verbose: int) -> dict[str, Any]:
    """Makes images, of all classes alike."""
    network = _network(_needed(folder, "finetuned.keras", "finetune"))
    classes = data.sensitive.num_classes
    labels = np.arange(settings.num_images) % classes
    images = tfdp.synthesis.sample(
        network,
        labels,
        num_classes=data.num_classes,
        steps=settings.sampling_steps,
        guidance=settings.guidance,
        seed=settings.seed,
        verbose=int(verbose == 1),
    )
    with whole_files.replacing(_path(folder, "images.npz")) as path:
        np.savez_compressed(path, images=images, labels=labels)
    with whole_files.replacing(_path(folder, "images.png")) as path:
        tfdp.synthesis.grid(images, labels).savefig(path, dpi=100)
    return {"synthetic_images": len(images)}


def evaluate(settings: Settings, data: Data, _: Plan, folder: str, verbose: int) -> dict[str, Any]:
    """Judges the images."""
    del verbose
    images, labels = _images(_needed(folder, "images.npz", "sample"), data.shape)
    (train, _), (test, test_labels) = data.train(), data.test()
    if settings.inception_weights is not None:
        features = tfdp.synthesis.inception_features(settings.inception_weights, data.shape)
    else:
        model = _network(_needed(folder, "judge.keras", "pretrain"))
        name = _judge_name(_needed(folder, "pretrain.json", "pretrain"))
        features = tfdp.synthesis.FeatureExtractor(name, model)
    synthetic = features(images[:COMPARED])
    real, held_out = features(train[:COMPARED]), features(test[:COMPARED])
    accuracy = tfdp.synthesis.downstream_accuracy(
        images, labels, test, test_labels, seed=settings.seed
    )
    distance = tfdp.synthesis.frechet_distance(real, synthetic)
    floor = tfdp.synthesis.frechet_distance(real, held_out)
    overlap = tfdp.synthesis.precision_recall(real, synthetic)
    copies = tfdp.synthesis.copy_check(synthetic, real, held_out)
    pairs = tfdp.synthesis.closest_pairs(synthetic, real, images[:COMPARED], train[:COMPARED])
    with whole_files.replacing(_path(folder, "closest.png")) as path:
        pairs.savefig(path, dpi=100)
    for line in (accuracy, distance, overlap, copies):
        print(line)
    return {
        "downstream": accuracy.to_dict(),
        "frechet": distance.to_dict(),
        "frechet_of_test_images": floor.distance,
        "precision_recall": overlap.to_dict(),
        "copies": copies.to_dict(),
    }


def _fit(
    private: tfdp.PrivateModel,
    selection: tfdp.saliency.Selection | None,
    settings: Settings,
    data: Data,
    plan: Plan,
    folder: str,
    verbose: int,
) -> None:
    """Trains, or goes on after the last epoch of a run that was interrupted."""
    private.compile(
        optimizer=tfdp.optimizers.VectorizedDPKerasAdamOptimizer(
            l2_norm_clip=settings.l2_norm_clip,
            noise_multiplier=plan.noise_multiplier,
            automatic_gamma=settings.automatic_gamma or None,
            learning_rate=settings.learning_rate,
            use_ema=True,
            ema_momentum=settings.ema_decay,
            ema_warmup=True,
        ),
        loss=tfdp.synthesis.DenoisingLoss(),
    )
    private.optimizer.build(private.trainable_variables)
    run = Run(json.loads(json.dumps(settings_of("finetune", settings))))
    before = train_checkpoint.read(folder)
    if before is not None:
        if before.settings != run.settings:
            raise UsageError(
                "--output_dir has an unfinished run with other flags: take another folder. "
                f"Received: output_dir={folder!r}"
            )
        run = before
        train_checkpoint.restore(private, folder)
    else:
        if selection is not None:
            selection.charge(private.ledger)
        train_checkpoint.write(private, run, folder)
    images, labels = data.train()
    private.fit(
        _inputs(images, labels),
        batch_size=settings.batch_size,
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=plan.steps // STEPS_PER_EPOCH,
        initial_epoch=len(run.epochs),
        callbacks=[
            tfdp.callbacks.PrivacyBudget(settings.target_epsilon, settings.delta),
            CheckpointEachEpoch(run, folder),
        ],
        verbose=verbose,
    )
    # Here, as a run that was complete when it was interrupted has nothing left to fit.
    private.optimizer.finalize_variable_values(private.trainable_variables)


def _selection(folder: str) -> tfdp.saliency.Selection:
    path = _needed(folder, "selection.json", "select")
    with read_files.checked(path, "selection"):
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return tfdp.saliency.Selection.from_json(text)


def _judge_name(path: str) -> str:
    return read_files.json_object(path, judge=str)["judge"]


def _images(path: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic images and their classes, that an earlier stage has written."""
    images, labels = read_files.arrays(path, "images", "labels")
    if (
        images.shape != (*labels.shape[:1], *shape)
        or labels.ndim != 1
        or images.dtype.kind not in "fu"
        or labels.dtype.kind not in "iu"
        or not np.isfinite(images).all()
    ):
        raise UsageError(f"The file holds no images of shape {shape}. Received: file={path!r}")
    return images, labels


def _steps_event(plan: Plan) -> dp_accounting.DpEvent:
    if not plan.steps:
        return dp_accounting.NoOpDpEvent()
    step = tfdp.accounting.dp_sgd_event(plan.noise_multiplier, plan.sampling_probability)
    return dp_accounting.SelfComposedDpEvent(step, plan.steps)


def _epsilon_of(event: dp_accounting.DpEvent, delta: float) -> float:
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return 0.0
    ledger = tfdp.accounting.PrivacyLedger()
    ledger.charge(event)
    return ledger.epsilon(delta)


def _denoiser(network: keras.Model, data: Data) -> tfdp.synthesis.Denoiser:
    return tfdp.synthesis.Denoiser(network, data.num_classes, name="denoiser")


def _peak_memory_mib() -> float:
    """The most memory that this process has held, where the system says it."""
    if resource is None:
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _inputs(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"images": 2 * np.asarray(images) - 1, "labels": np.asarray(labels, "int32")}


def _in_form(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images in [0, 1] as grey or coloured ones, and of the size, that a shape says."""
    if images.shape[-1] == 3 and shape[-1] == 1:
        images = tf.image.rgb_to_grayscale(images)
    elif images.shape[-1] == 1 and shape[-1] == 3:
        images = np.repeat(images, 3, axis=-1)
    if images.shape[1:3] != shape[:2]:
        images = tf.clip_by_value(tf.image.resize(images, shape[:2], antialias=True), 0, 1)
    return np.asarray(images, "float32")


def _network(path: str) -> keras.Model:
    return read_files.model(path)


def _save(network: keras.Model, path: str) -> None:
    with whole_files.replacing(path) as partial:
        network.save(partial)


def _path(folder: str, name: str) -> str:
    return os.path.join(folder, name)


def _needed(folder: str, name: str, stage: str) -> str:
    path = _path(folder, name)
    if not os.path.exists(path):
        raise UsageError(
            f"--output_dir has no {name}: the stage {stage!r} comes first. "
            f"Received: output_dir={folder!r}"
        )
    return path
