"""The privacy statement: what was released, what that guarantees, and what it does not."""

import dataclasses
import importlib.metadata
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dp_accounting
from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent

from tfdp.accounting import events, guarantees, loss_distribution
from tfdp.accounting.release import Release, details_key

UNIT = "one training example"
RELATION = "add or remove one example"
EMPTY_RELATION = (
    "replace one example by an empty one whose gradient is zero; the number of examples is public"
)
NOT_CHARGED = (
    "the search for hyper-parameters: each further training run on the same data, also one whose "
    "model was thrown away, costs privacy of its own",
    "metrics computed on the training data and shown to whoever trained the model, such as the "
    "loss in the progress bar",
    "the choice of the data set and of its preprocessing, where private examples guided it",
)
_PACKAGES = ("tfdp", "dp-accounting", "tensorflow", "keras")
_WIDTH = 88
_LABELS = {
    "sampling": "sampling as it ran",
    "l2_norm_clip": "clip norm (L2, per example)",
    "expected_batch_size": "expected batch size",
    "num_examples": "number of examples",
    "note": "note",
}


@dataclasses.dataclass(frozen=True)
class ReleaseSummary:
    """What the statement says about one kind of release.

    Attributes:
        description: what it was for.
        steps: how often it was made.
        mechanism: the mechanism in words.
        sampling: how examples were drawn, as it ran or, if that was not told, as accounted.
        sampling_probability: chance of an example to take part; 1 without sampling; `None` where
            the mechanism has none.
        noise_multiplier: noise standard deviation (scale, for Laplace noise) over sensitivity;
            `None` where the mechanism has none.
        details: what else was recorded.

    Example:
        >>> import tfdp
        >>> ledger = tfdp.accounting.PrivacyLedger()
        >>> ledger.charge(tfdp.accounting.dp_sgd_event(1.1, 0.01), 500, description="DP-SGD step")
        >>> (summary,) = ledger.statement(delta=1e-5).releases
        >>> summary.steps, summary.noise_multiplier, summary.sampling_probability
        (500, 1.1, 0.01)
    """

    description: str
    steps: int
    mechanism: str
    sampling: str
    sampling_probability: float | None
    noise_multiplier: float | None
    details: Mapping[str, str | int | float | bool]


@dataclasses.dataclass(frozen=True)
class PrivacyStatement:
    """A written account of a model's privacy; `str` gives the text.

    Attributes:
        delta: the delta it is made for.
        epsilon_rdp: epsilon by Rényi differential privacy; infinite if there is no guarantee.
        epsilon_pld: epsilon by privacy loss distributions; infinite if there is no guarantee,
            `None` if a release has no such distribution.
        epsilon_zcdp: epsilon by the simple formula `tfdp.accounting.zcdp_epsilon`, as a check;
            `None` unless every release is Gaussian noise on all examples.
        epsilon_estimate: what epsilon would be, by RDP, had all batches been Poisson samples;
            `None` if no release has such an estimate. Not a bound for what ran.
        estimated: what those releases were for.
        releases: what was released. Equal kinds of release are joined.
        not_private_reasons: why there is no guarantee; empty if there is one.
        warnings: what weakens the guarantee.
        not_charged: what the epsilon does not cover.
        unit: whose privacy it is.
        relation: which data sets cannot be told apart.
        versions: package versions.

    Example:
        >>> import tfdp
        >>> ledger = tfdp.accounting.PrivacyLedger()
        >>> ledger.charge(tfdp.accounting.dp_sgd_event(1.1, 0.01), 500, description="DP-SGD step")
        >>> statement = ledger.statement(delta=1e-5)
        >>> statement.headline
        '(epsilon = 1.09, delta = 1e-05)-differentially private, per training example.'
        >>> statement.is_private, statement.epsilon == statement.epsilon_pld
        (True, True)
    """

    delta: float
    epsilon_rdp: float
    epsilon_pld: float | None
    releases: tuple[ReleaseSummary, ...]
    not_private_reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    not_charged: tuple[str, ...] = NOT_CHARGED
    unit: str = UNIT
    relation: str = RELATION
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epsilon_zcdp: float | None = None
    epsilon_estimate: float | None = None
    estimated: tuple[str, ...] = ()

    @property
    def is_private(self) -> bool:
        """Whether there is any guarantee."""
        return not self.not_private_reasons

    @property
    def epsilon(self) -> float:
        """The epsilon of the headline: the smaller of the two, infinite if there is no guarantee.

        Both are upper bounds, so the smaller holds. Below a delta of 1e-10 it is that of RDP,
        whose arithmetic is exact there.
        """
        if self.epsilon_pld is None or self.delta < loss_distribution.SMALLEST_DELTA:
            return self.epsilon_rdp
        return min(self.epsilon_rdp, self.epsilon_pld)

    @property
    def headline(self) -> str:
        """The statement in one sentence, epsilon rounded up."""
        if not self.is_private:
            return "NOT PRIVATE: " + "; ".join(self.not_private_reasons)
        if not self.releases:
            return "Nothing computed from the training data has been charged: epsilon is 0."
        return (
            f"(epsilon = {_up(self.epsilon)}, delta = {self.delta:g})-differentially private, "
            f"per training example."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the statement as plain data.

        Returns:
            A dictionary that strict JSON can hold: an infinite number is the text `"inf"`.
        """
        data = dataclasses.asdict(self)
        data["is_private"] = self.is_private
        data["epsilon"] = self.epsilon
        data["headline"] = self.headline
        return _finite(data)

    def to_json(self) -> str:
        """Returns `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        blocks = [self._opening()]
        if self.warnings:
            blocks.append("Warnings\n" + "\n".join(_item(warning) for warning in self.warnings))
        if self.releases:
            blocks.append("What was released\n" + "\n".join(map(_release_text, self.releases)))
        blocks.append("Not covered by epsilon\n" + "\n".join(map(_item, self.not_charged)))
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        if versions:
            blocks.append(_wrap("Made with " + versions + "."))
        return "\n\n".join(blocks) + "\n"

    def _opening(self) -> str:
        lines = [self.headline]
        if not self.is_private:
            lines += [
                "",
                "No epsilon can be claimed for this model, whatever was charged below. Treat it "
                "and everything computed with it as you treat the training data.",
            ]
        elif self.releases:
            lines += [
                "",
                "Meaning: whether or not any one example was in the training data changes the "
                "probability of anything that can be learnt from the releases below by a factor "
                "of at most exp(epsilon), but for a failure probability of "
                f"delta = {self.delta:g}.",
                "",
                f"Epsilon by Rényi differential privacy (RDP):  {_up(self.epsilon_rdp)}",
                "Epsilon by privacy loss distributions (PLD):  "
                + ("not available" if self.epsilon_pld is None else _up(self.epsilon_pld)),
                "Both are upper bounds for the same releases; PLD is usually the tighter.",
            ]
            if self.epsilon_zcdp is not None:
                lines.append(f"Check by the zCDP formula, always looser:  {_up(self.epsilon_zcdp)}")
            if self.epsilon_estimate is not None:
                names = " and ".join(repr(name) for name in self.estimated)
                lines += [
                    "",
                    f"Had the batches of {names} been Poisson samples, epsilon would be "
                    f"{_up(self.epsilon_estimate)} (RDP). That is an estimate for comparison, not "
                    "a bound for what ran.",
                ]
        lines += ["", f"Unit of privacy: {self.unit}.", f"Neighbouring data sets: {self.relation}."]
        title = "Privacy statement\n=================\n" if self.is_private else ""
        return title + "\n".join(map(_wrap, lines))


def make(
    releases: Sequence[Release],
    counts: Mapping[events.Leaf, int],
    not_private_reasons: Sequence[str],
    delta: float,
) -> PrivacyStatement:
    """Makes the statement of a ledger; arguments are not checked.

    Args:
        releases: what was charged.
        counts: the same, reduced to elementary releases.
        not_private_reasons: why there is no guarantee, if so.
        delta: in (0, 1).

    Returns:
        The statement.
    """
    joined: dict[tuple[str, ...], Release] = {}
    for release in releases:
        key = (
            repr(release.event),
            release.description,
            details_key(release.details),
            repr(release.estimate),
        )
        if key in joined:
            release = dataclasses.replace(release, count=release.count + joined[key].count)
        joined[key] = release
    reasons = list(not_private_reasons)
    for release in joined.values():
        if any(events.is_non_private(leaf) for leaf in events.leaves(release.event)):
            reasons.append(f"{release.description!r} was released without noise (epsilon infinite)")
    rdp: float = math.inf
    pld: float | None = math.inf
    zcdp = estimate = None
    estimated = [release for release in joined.values() if release.estimate is not None]
    if not reasons:
        rdp = guarantees.epsilon_of(counts, delta, "rdp")
        no_pld = loss_distribution.unsupported(counts) is not None
        pld = None if no_pld else guarantees.epsilon_of(counts, delta, "pld")
        zcdp = guarantees.zcdp_epsilon_of(counts, delta)
        if estimated:
            estimate = guarantees.epsilon_of(_estimate(joined.values()), delta, "rdp")
        if math.isinf(rdp if pld is None else min(rdp, pld)):
            reasons.append(f"epsilon is infinite at delta = {delta:g}")
    return PrivacyStatement(
        delta=delta,
        epsilon_rdp=rdp,
        epsilon_pld=pld,
        releases=tuple(_summary(release) for release in joined.values()),
        not_private_reasons=tuple(dict.fromkeys(reasons)),
        warnings=tuple(_warnings(list(joined.values()), delta)),
        relation=_relation(releases),
        versions=_versions(),
        epsilon_zcdp=zcdp,
        epsilon_estimate=estimate,
        estimated=tuple(dict.fromkeys(release.description for release in estimated)),
    )


def _estimate(releases: Iterable[Release]) -> dict[events.Leaf, int]:
    counts: dict[events.Leaf, int] = {}
    for release in releases:
        event = release.event if release.estimate is None else release.estimate
        for leaf, count in events.leaves(event, release.count).items():
            counts[leaf] = counts.get(leaf, 0) + count
    return counts


def _relation(releases: Sequence[Release]) -> str:
    said = dict.fromkeys(
        str(release.details["neighbours"])
        for release in releases
        if "neighbours" in release.details
    )
    if said:
        return "; ".join(said)
    fixed_size = any(
        _has(release.event, dp_accounting.SampledWithoutReplacementDpEvent) for release in releases
    )
    return EMPTY_RELATION if fixed_size else RELATION


def _warnings(releases: Sequence[Release], delta: float) -> list[str]:
    found: list[str | None] = []
    for release in releases:
        size = release.details.get("num_examples")
        if isinstance(size, int | float) and size > 0:
            found.append(guarantees.large_delta(delta, size))
        sampling = str(release.details.get("sampling", "Poisson"))
        poisson = _has(release.event, dp_accounting.PoissonSampledDpEvent)
        if poisson and not sampling.casefold().startswith("poisson"):
            found.append(
                f"Batches were drawn by {sampling!r}, yet epsilon is computed as if by Poisson "
                "sampling. It is an estimate, not a proven bound."
            )
    return [warning for warning in dict.fromkeys(found) if warning]


def _has(event: dp_accounting.DpEvent, kind: type[dp_accounting.DpEvent]) -> bool:
    return any(isinstance(leaf.event, kind) for leaf in events.leaves(event))


def _summary(release: Release) -> ReleaseSummary:
    leaves = list(events.leaves(release.event))
    q: float | None = None
    sigma: float | None = None
    mechanism = repr(release.event)
    drawn = "none: every example may take part in every release"
    if len(leaves) == 1:
        event = leaves[0].event
        if isinstance(event, events.SAMPLED):
            q, drawn, event = _sample(event)
        if isinstance(event, dp_accounting.GaussianDpEvent):
            mechanism, sigma = "Gaussian noise on a sum of clipped terms", event.noise_multiplier
        elif isinstance(event, dp_accounting.LaplaceDpEvent):
            mechanism, sigma = "Laplace noise", event.noise_multiplier
        elif isinstance(event, dp_accounting.NonPrivateDpEvent):
            mechanism = "no noise"
        if sigma is not None and q is None:
            q = 1.0
    elif any(_has(release.event, kind) for kind in events.SAMPLED):
        drawn = "as in the mechanism above"
    sampling = str(release.details.get("sampling", drawn))
    details = {
        key: value
        for key, value in release.details.items()
        if key not in ("sampling", "neighbours")
    }
    return ReleaseSummary(
        release.description, release.count, mechanism, sampling, q, sigma, details
    )


def _sample(event: dp_accounting.DpEvent) -> tuple[float, str, dp_accounting.GaussianDpEvent]:
    """Returns the sampling probability, the sampling in words, and what runs on the sample."""
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        size, total = event.sample_size, event.source_dataset_size
        words = f"fixed size (as accounted): {size:,} of {total:,} examples, drawn afresh each time"
        return size / total, words, event.event
    words = "Poisson (as accounted): each example takes part by an independent coin flip"
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        words += f"; of more than {event.truncated_batch_size:,}, a random subset of that many"
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        return event.sampling_probability, words, gaussian
    return event.sampling_probability, words, event.event


def _release_text(release: ReleaseSummary) -> str:
    rows: list[tuple[str, str]] = [
        ("times released", f"{release.steps:,}"),
        ("mechanism", release.mechanism),
        ("sampling as it ran", release.sampling),
    ]
    if release.sampling_probability is not None:
        rows.append(("sampling probability", f"{release.sampling_probability:.6g}"))
    if release.noise_multiplier is not None:
        rows.append(("noise multiplier", f"{release.noise_multiplier:.6g}"))
    rows += [
        (_LABELS.get(key, key.replace("_", " ")), _plain(value))
        for key, value in release.details.items()
    ]
    lines = [_item(release.description)]
    for label, value in rows:
        lines.append(_wrap(f"{label + ':':<29}{value}", indent="    ", hanging=" " * 33))
    return "\n".join(lines)


def _plain(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else value


def _up(epsilon: float) -> str:
    """Writes an epsilon with three significant digits at least, never below its value."""
    if epsilon == 0.0 or math.isinf(epsilon):
        return f"{epsilon:g}"
    scale = 10.0 ** max(3 - math.floor(math.log10(epsilon)) - 1, 2)
    return f"{math.ceil(epsilon * scale) / scale:.10g}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _item(text: str) -> str:
    return _wrap(text, indent="  - ", hanging="    ")


def _wrap(text: str, indent: str = "", hanging: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=hanging,
        break_on_hyphens=False,
        break_long_words=False,
        replace_whitespace=False,
    )


def _versions() -> dict[str, str]:
    """Asks the installed packages, without importing them."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
