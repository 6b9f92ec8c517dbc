"""Update screening in `train.py`: its flags, its data and its callback."""

import dataclasses

import dp_accounting
from absl import flags

import tfdp
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.images import Images

RULES = ("none", "annealing", "noisy_threshold")
_OF_RULE = {
    "temperature_factor": "annealing",
    "max_rejections": "annealing",
    "public_examples": "annealing",
    "screening_each": "annealing",
    "screening_decisions": "annealing",
    "score_clip": "noisy_threshold",
    "score_threshold": "noisy_threshold",
    "score_noise_multiplier": "noisy_threshold",
    "score_batch_size": "noisy_threshold",
    "score_difference": "noisy_threshold",
}
_DEFAULTS = {
    "temperature_factor": 10.0,
    "max_rejections": 5,
    "public_examples": 256,
    "screening_each": "step",
    "screening_decisions": None,
    "score_clip": 0.001,
    "score_threshold": -1.0,
    "score_noise_multiplier": 1.0,
    "score_batch_size": 256,
    "score_difference": "mean",
}


@dataclasses.dataclass(frozen=True)
class Screening:
    """How updates are screened. Settings of the other rule are `None`.

    Attributes:
        rule: One of `RULES`, but not `"none"`.
        charge: `"trials"`, or `"accepted"` for the accounting of the papers.
        restore_optimizer: Whether a rejected update is taken out of the optimizer's state, too.
        temperature_factor: Of `SimulatedAnnealing`, as what follows.
        max_rejections: Rejections in a row.
        public_examples: Training images that are declared public and not trained on.
        screening_each: Whether single updates or those of an epoch are kept or undone.
        screening_decisions: After so many all that follows is kept; `None`: always decided.
        score_clip: Of `NoisyThreshold`, as what follows.
        score_threshold: In units of the clip.
        score_noise_multiplier: Noise on a score.
        score_batch_size: Expected size of the sample that is scored.
        score_difference: What is clipped.
    """

    rule: str
    charge: str
    restore_optimizer: bool
    temperature_factor: float | None
    max_rejections: int | None
    public_examples: int | None
    screening_each: str | None
    screening_decisions: int | None
    score_clip: float | None
    score_threshold: float | None
    score_noise_multiplier: float | None
    score_batch_size: int | None
    score_difference: str | None


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of screening on `values`."""

    def define(kind, name, default, text, *args):
        kind(name, default, *args, help=text, flag_values=values)

    def of_rule(kind, name, text, *args):
        rule = f"--screening={_OF_RULE[name]}"
        define(kind, name, None, f"For {rule}: {text} Defaults to {_DEFAULTS[name]}.", *args)

    define(
        flags.DEFINE_enum,
        "screening",
        "none",
        "Keep or undo each update: by the loss on public images, or by a noisy score of private "
        "ones. Every trial and every score is charged.",
        list(RULES),
    )
    define(
        flags.DEFINE_enum,
        "screening_charge",
        "trials",
        "What screening charges. 'accepted' is the accounting of the papers and no differential "
        "privacy; the statement says so.",
        ["trials", "accepted"],
    )
    define(
        flags.DEFINE_bool,
        "restore_optimizer",
        True,
        "Whether screening takes a rejected update out of the momentum, too.",
    )
    real, whole = flags.DEFINE_float, flags.DEFINE_integer
    of_rule(real, "temperature_factor", "k in the chance exp(-dE k t) of a worse update.")
    of_rule(whole, "max_rejections", "rejections in a row, before one update is kept anyway.")
    of_rule(whole, "public_examples", "last training images, declared public and not trained on.")
    of_rule(
        flags.DEFINE_enum, "screening_each", "what is kept or undone as one.", ["step", "epoch"]
    )
    of_rule(whole, "screening_decisions", "after so many, all that follows is kept.")
    of_rule(real, "score_clip", "bound on a difference of losses.")
    of_rule(real, "score_threshold", "a score below it, in units of the clip, keeps an update.")
    of_rule(real, "score_noise_multiplier", "noise on a score over its sensitivity.")
    of_rule(whole, "score_batch_size", "expected size of the Poisson sample that is scored.")
    of_rule(
        flags.DEFINE_enum,
        "score_difference",
        "whether the mean or each example's difference is clipped.",
        ["mean", "examples"],
    )


def settle(values: flags.FlagValues) -> Screening | None:
    """The screening that the flags ask for; `None` for none.

    Raises:
        UsageError: Naming the flag and the value received.
    """
    rule = values.screening
    for name, of in _OF_RULE.items():
        if getattr(values, name) is not None and rule != of:
            raise UsageError(f"--{name} is for --screening={of}. Received: screening={rule}")
    if rule == "none":
        if values.screening_charge != "trials":
            raise UsageError(
                "--screening_charge needs --screening. "
                f"Received: screening_charge={values.screening_charge}"
            )
        return None
    given = {
        name: (_DEFAULTS[name] if getattr(values, name) is None else getattr(values, name))
        if of == rule
        else None
        for name, of in _OF_RULE.items()
    }
    screening = Screening(rule, values.screening_charge, values.restore_optimizer, **given)
    try:
        _rule(screening, 10**9)
    except ValueError as error:
        raise UsageError(f"--screening={rule} does not work: {error}") from error
    for name in ("public_examples", "score_batch_size"):
        if given[name] is not None and given[name] < 1:
            raise UsageError(f"--{name} must be at least 1. Received: {name}={given[name]}")
    if screening.screening_decisions is not None and screening.screening_decisions < 1:
        raise UsageError(
            "--screening_decisions must be at least 1. "
            f"Received: screening_decisions={screening.screening_decisions}"
        )
    if screening.charge == "accepted" and screening.screening_each == "epoch":
        raise UsageError(
            "The papers' accounting is that of single updates. "
            "Received: screening_charge=accepted, screening_each=epoch"
        )
    if screening.charge == "accepted" and values.noise_multiplier is None:
        raise UsageError(
            "How many updates will be kept is not known beforehand: give --noise_multiplier, and "
            "--target_epsilon to stop at. Received: screening_charge=accepted"
        )
    return screening


def split_off(flag: str, count: int, data: ImageData) -> tuple[ImageData, Images]:
    """The data without the last training images, and these.

    Args:
        flag: The flag that asks for it.
        count: How many, at least 1.
        data: The data.

    Raises:
        UsageError: If no image would be left to train on.
    """
    kept = len(data.train) - count
    if kept < 1:
        raise UsageError(
            f"--{flag} must be below {len(data.train)}, the number of training images. "
            f"Received: {flag}={count}"
        )
    train, last = data.train.split(kept)
    return dataclasses.replace(data, train=train), last


def set_public_apart(
    screening: Screening | None, data: ImageData
) -> tuple[ImageData, tfdp.sampling.PublicData | None]:
    """The data without the images that are declared public, and these.

    Raises:
        UsageError: If no image would be left to train on.
    """
    if screening is None or screening.public_examples is None:
        return data, None
    private, last = split_off("public_examples", screening.public_examples, data)
    return private, tfdp.sampling.public(*last.arrays())


def callback(
    screening: Screening, data: ImageData, public: tfdp.sampling.PublicData | None
) -> tfdp.callbacks.UpdateScreening:
    """The callback that screens updates."""
    return tfdp.callbacks.UpdateScreening(
        _rule(screening, len(data.train)),
        data.train.arrays() if public is None else public,
        charge=screening.charge,
        restore_optimizer=screening.restore_optimizer,
        each=screening.screening_each or "step",
        decisions=screening.screening_decisions,
    )


def recorded(settings: dict) -> Screening | None:
    """The screening in the settings of a record; `None` for none."""
    if "rule" not in settings:
        return None
    return Screening(**{f.name: settings[f.name] for f in dataclasses.fields(Screening)})


def scores_event(
    screening: Screening | None, num_examples: int, steps: int
) -> dp_accounting.DpEvent | None:
    """What the scores of all steps release beside the updates; `None` if nothing."""
    if screening is None or screening.rule == "annealing":
        return None
    score = _rule(screening, num_examples).score_event(num_examples)
    return dp_accounting.SelfComposedDpEvent(score, steps)


def _rule(screening: Screening, num_examples: int) -> tfdp.callbacks.ScreeningRule:
    if screening.rule == "annealing":
        return tfdp.callbacks.SimulatedAnnealing(
            screening.temperature_factor, screening.max_rejections
        )
    return tfdp.callbacks.NoisyThreshold(
        screening.score_clip,
        screening.score_threshold,
        screening.score_noise_multiplier,
        min(1.0, screening.score_batch_size / num_examples),
        screening.score_difference,
    )
