r"""Makes synthetic images of a private data set, and says what they are worth.

    python scripts/synthesize.py --public=mnist,cifar10_jpeg --sensitive=fashion_mnist \
        --target_epsilon=10 --output_dir=runs/fashion
    python scripts/synthesize.py --method=lora --pretrained=runs/fashion \
        --public=mnist,cifar10_jpeg --sensitive=fashion_mnist --output_dir=runs/fashion_lora

A diffusion model is trained on public images (`pretrain`), the weight matrices that matter most
for the sensitive ones are selected with differential privacy (`select`) and tuned by private LoRA
(`finetune`), together with the embedding of classes, which are others now; images are drawn from
the result (`sample`) and judged (`evaluate`). The budget covers selection and fine-tuning together.
A stage that is done in `--output_dir` is not done again, and one that was interrupted goes on: give
the same command again.

`--output_dir` gets `pretrained.keras`, `judge.keras` (whose features images are compared in),
`selection.json` and `.png`, `finetuned.keras`, `ledger.json`, `statement.txt`, `images.npz` (uint8
images and their labels), `images.png` and `result.json`. The figures of `evaluate` are worked out
from the sensitive images and are not protected, nor is `closest.png`, which shows some of them.
"""

import dataclasses
import json
import math
import os
import time
from typing import Any

from absl import flags

from tfdp.scripts import (
    command_line,
    image_datasets,
    read_files,
    synthesis_stages,
    train_checkpoint,
    train_settings,
    whole_files,
)
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.synthesis_stages import CANDIDATES, METHODS, PRETRAINED_FILES, Settings

STAGES = ("pretrain", "select", "finetune", "sample", "evaluate")


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of `synthesize.py` on `values`."""

    def define(kind, name, default, text, *args, **kwargs):
        kind(name, default, *args, help=text, flag_values=values, **kwargs)

    text, real, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    define(flags.DEFINE_list, "stage", list(STAGES), f"What to do, of {', '.join(STAGES)}.")
    define(flags.DEFINE_list, "public", ["mnist"], "Data sets to pre-train on; classes in order.")
    define(whole, "public_images", 0, "Take so many of each public set; 0: all.", lower_bound=0)
    define(text, "sensitive", "fashion_mnist", "The data set to protect.")
    define(flags.DEFINE_enum, "method", "sapf", "What is tuned: see DP-SAPF.", list(METHODS))
    define(real, "target_epsilon", 10.0, "Budget of selection and fine-tuning together.")
    define(real, "delta", None, "Defaults to 1 / (N ln N) for N sensitive images.")
    define(
        flags.DEFINE_enum,
        "candidates",
        "all_matrices",
        "What is selected from: kernels of attention, or of convolutions and dense layers, too.",
        list(CANDIDATES),
    )
    define(real, "fraction", 0.3, "Share of the candidates to select.")
    define(real, "score_noise_multiplier", 20.0, "Noise of the scores.", lower_bound=0.0)
    define(
        real,
        "selection_norm_clip",
        0.1,
        "Norm that gradients are clipped to for the scores: below most, or noise outweighs them.",
    )
    define(real, "selection_probability", 0.2, "Chance of each image to be scored.")
    define(whole, "rank", 8, "Of LoRA.", lower_bound=1)
    define(whole, "pretrain_epochs", 2, "Passes over the public images.", lower_bound=1)
    define(whole, "pretrain_batch_size", 64, "Images in a batch.", lower_bound=1)
    define(real, "pretrain_learning_rate", 2e-3, "Highest rate of Adam.", lower_bound=0.0)
    define(whole, "batch_size", 512, "Expected sensitive images in a step.", lower_bound=1)
    define(whole, "steps", 120, "Private steps; rounded up to epochs of ten.", lower_bound=1)
    define(
        real,
        "learning_rate",
        0.012,
        "Of private Adam; all weights need less than adapters.",
        lower_bound=0.0,
    )
    define(real, "l2_norm_clip", 1.0, "Norm that an image's gradient is brought to.")
    define(real, "automatic_gamma", 0.01, "Of automatic clipping; 0: plain clipping.")
    define(whole, "draws", 1, "Draws of time and noise of each image in a step.", lower_bound=1)
    define(real, "ema_decay", 0.95, "Decay of the averaged weights in fine-tuning.")
    define(whole, "num_images", 10_000, "Images to make, of all classes alike.", lower_bound=1)
    define(real, "guidance", 2.0, "1: none; more: images more typical of their class.")
    define(whole, "sampling_steps", 25, "Time steps of DDIM.", lower_bound=1)
    define(text, "pretrained", None, "Folder of a run that has pre-trained already.")
    define(text, "inception_weights", None, "Weights of Inception, to judge by its features.")
    define(whole, "seed", 0, "Of weights, draws and pictures; privacy never rests on it.")
    define(text, "output_dir", None, "Folder. Defaults to runs/<sensitive>_<method>.")
    image_datasets.declare_flags(values)
    define(whole, "verbose", 2, "0: silent; 1: progress bars; 2: a line an epoch.", lower_bound=0)


def synthesize(values: flags.FlagValues) -> dict[str, Any]:
    """Runs the stages; gives what `result.json` holds.

    Raises:
        UsageError: Before any work, naming the flag and the value received.
    """
    stages = _stages(values)
    settings, data = _settle(values)
    folder = values.output_dir or os.path.join("runs", f"{settings.sensitive}_{settings.method}")
    train_settings.prepare_output_dir(folder)
    with train_checkpoint.alone_in(folder), train_checkpoint.kept(folder):
        plan = synthesis_stages.plan(settings, len(data.sensitive.train))
        for stage in stages:
            _run(stage, settings, data, plan, folder, values.verbose)
        return _result(settings, folder)


def _stages(values: flags.FlagValues) -> list[str]:
    unknown = sorted({*values.stage} - {*STAGES})
    if unknown or not values.stage:
        raise UsageError(f"--stage takes {', '.join(STAGES)}. Received: stage={values.stage}")
    return [stage for stage in STAGES if stage in values.stage]


def _settle(values: flags.FlagValues) -> tuple[Settings, synthesis_stages.Data]:
    """The settings and the data, checked as far as they can be before work begins."""
    names = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: values[name].value for name in names})
    for name, high in (("fraction", 1), ("selection_probability", 1), ("ema_decay", 1)):
        if not 0 < values[name].value <= high:
            raise UsageError(f"--{name} must be in (0, 1]. Received: {name}={values[name].value}")
    for name in ("target_epsilon", "l2_norm_clip", "selection_norm_clip"):
        if not values[name].value > 0:
            raise UsageError(f"--{name} must be positive. Received: {name}={values[name].value}")
    if values.automatic_gamma < 0:
        raise UsageError(
            f"--automatic_gamma must not be negative. Received: {values.automatic_gamma}"
        )
    if settings.sensitive in settings.public or not settings.public:
        raise UsageError(
            "--public and --sensitive must be different data sets. "
            f"Received: public={','.join(settings.public)}, sensitive={settings.sensitive}"
        )
    if values.inception_weights is not None and not os.path.isfile(values.inception_weights):
        raise UsageError(
            f"--inception_weights is no file. Received: inception_weights="
            f"{values.inception_weights!r}"
        )
    if values.pretrained is not None and not all(
        os.path.isfile(os.path.join(values.pretrained, name)) for name in PRETRAINED_FILES
    ):
        raise UsageError(
            "--pretrained is no folder in which the stage 'pretrain' is done. "
            f"Received: pretrained={values.pretrained!r}"
        )

    def load(name):
        return image_datasets.load(name, data_dir=values.data_dir, download=values.download)

    sensitive = load(settings.sensitive)
    data = synthesis_stages.Data(
        [load(name) for name in settings.public], sensitive, settings.public_images
    )
    count = len(sensitive.train)
    if settings.delta is None:
        settings = dataclasses.replace(settings, delta=1 / (count * math.log(count)))
    if not 0 < settings.delta < 1:
        raise UsageError(f"--delta must be in (0, 1). Received: delta={settings.delta}")
    if settings.batch_size > count:
        raise UsageError(
            f"--batch_size must be at most {count}, the images of {settings.sensitive}. "
            f"Received: batch_size={settings.batch_size}"
        )
    if sensitive.num_classes > data.num_classes:
        raise UsageError(
            f"{settings.sensitive} has {sensitive.num_classes} classes, and the public sets have "
            f"{data.num_classes}: it takes the places of theirs. "
            f"Received: public={','.join(settings.public)}"
        )
    return settings, data


def _run(
    stage: str,
    settings: Settings,
    data: synthesis_stages.Data,
    plan: synthesis_stages.Plan,
    folder: str,
    verbose: int,
) -> None:
    """Runs one stage unless it is done, and writes down that it is.

    Raises:
        UsageError: If what is there is of other settings, or what it needs is not there.
    """
    path = os.path.join(folder, f"{stage}.json")
    made_with = synthesis_stages.settings_of(stage, settings)
    if os.path.exists(path):
        before = read_files.json_object(path, settings=dict[str, Any])["settings"]
        if before != json.loads(json.dumps(made_with)):
            different = sorted(k for k in made_with if made_with[k] != before.get(k))
            raise UsageError(
                f"--output_dir has the stage {stage!r} of a run with other flags, which differ in "
                f"{', '.join(different)}: take another folder. Received: output_dir={folder!r}"
            )
        print(f"{stage}: done before")
        return
    print(f"{stage} ...", flush=True)
    started = time.perf_counter()
    found = getattr(synthesis_stages, stage)(settings, data, plan, folder, verbose)
    record = {"settings": made_with, "seconds": time.perf_counter() - started, **found}
    with whole_files.replacing(path) as partial, open(partial, "w") as file:
        json.dump(record, file, indent=2)
    if os.path.exists(train_checkpoint.path_in(folder)):
        # Not before: without the record and without the checkpoint it would be trained again.
        train_checkpoint.remove(folder)


def _result(settings: Settings, folder: str) -> dict[str, Any]:
    """What all stages that are done have found, also written to `result.json` and printed."""
    result: dict[str, Any] = {"settings": dataclasses.asdict(settings), "seconds": {}}
    for stage in STAGES:
        path = os.path.join(folder, f"{stage}.json")
        if os.path.exists(path):
            record = read_files.json_object(path, settings=dict[str, Any], seconds=float)
            del record["settings"]
            result["seconds"][stage] = round(record.pop("seconds"), 1)
            result.update(record)
    path = os.path.join(folder, "result.json")
    with whole_files.replacing(path) as partial, open(partial, "w") as file:
        json.dump(result, file, indent=2)
    for name, value in result.items():
        if name != "settings":
            print(f"{name:24} {json.dumps(value)}")
    print(f"all of it                {folder}")
    return result


def main() -> None:
    """Runs the program; the `tfdp-synthesize` command."""
    command_line.run(__doc__, declare_flags, synthesize)


if __name__ == "__main__":
    main()
