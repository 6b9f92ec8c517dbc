"""The privacy ledger: every release is charged to it, and it knows what has been spent."""

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence

import dp_accounting
import numpy as np

from tfdp import _validate
from tfdp.accounting import calibration, events, guarantees, release, serialization, statement
from tfdp.accounting.release import Detail, Release


class PrivacyLedger:
    """A record of every release computed from one data set, and its total privacy cost.

    Whatever was computed from the private data and seen by anyone belongs here: steps of DP-SGD,
    noisy scores, private selections. Charge *before* releasing, so that a crash in between can
    only overstate the cost.

    Adjacent charges that differ only in their count are kept as one release.

    Example:
        >>> from tfdp import accounting
        >>> ledger = accounting.PrivacyLedger()
        >>> step = accounting.dp_sgd_event(1.23, 512 / 60_000)
        >>> ledger.charge(step, 118, details={"l2_norm_clip": 0.1, "num_examples": 60_000})
        >>> ledger.charge(step, 118, details={"l2_norm_clip": 0.1, "num_examples": 60_000})
        >>> ledger.releases[0].count
        236
        >>> round(ledger.epsilon(1e-5), 2)
        0.78
        >>> ledger.remaining_steps(step, target_epsilon=3.0, delta=1e-5)
        5961
        >>> accounting.PrivacyLedger.from_json(ledger.to_json()) == ledger
        True

    Formal guarantees:
        If every release was computed as its event says, all releases together are
        (`epsilon(delta)`, `delta`)-differentially private under adding or removing one example,
        also when each was chosen in the light of those before (adaptive composition). With batches
        of fixed size among them, neighbours are those of `fixed_size_dp_sgd_event`. The bound
        holds for any one delta fixed in advance. `mark_not_private` voids it; `epsilon` then still
        returns what the charges alone would cost, and only the statement refuses a number.
    """

    def __init__(self) -> None:
        """Starts an empty ledger, whose epsilon is 0."""
        # Who charged what: see `union`. An entry's origin is the ledger object that charged it.
        self._entries: list[tuple[str, Release]] = []
        self._origin = uuid.uuid4().hex
        self._reasons: list[str] = []
        self._counts: dict[events.Leaf, int] = {}
        self._last_charged: tuple[dp_accounting.DpEvent, dict[events.Leaf, int]] | None = None

    def charge(
        self,
        event: dp_accounting.DpEvent,
        count: int = 1,
        *,
        description: str = "DP-SGD step",
        details: Mapping[str, Detail] | None = None,
        estimate: dp_accounting.DpEvent | None = None,
    ) -> None:
        """Records that an event is about to be released.

        Args:
            event: the mechanism, such as `tfdp.accounting.dp_sgd_event` returns. Supported are
                Gaussian, Laplace and zCDP events, Gaussian events on samples (Poisson, of fixed
                size, or Poisson cut to a capacity), non-private and no-op events, and
                compositions of these.
            count: how often it is released, 0 or above; 0 records nothing. Defaults to 1.
            description: what it is for. Defaults to `"DP-SGD step"`.
            details: what the statement is to show beside it, from text to text, number or bool.
                Keys it words itself: `sampling` (as it ran), `l2_norm_clip`,
                `expected_batch_size`, `num_examples`, `note`. `neighbours` replaces the
                statement's words on which data sets cannot be told apart. Defaults to none.
            estimate: what one release would have been charged had its batches been Poisson
                samples. The statement then tells that epsilon as well, for comparison; no other
                epsilon depends on it. Defaults to none.

        Example:
            >>> from dp_accounting import SelfComposedDpEvent
            >>> from tfdp import accounting
            >>> ledger = accounting.PrivacyLedger()  # data shuffled once an epoch, 100 batches each
            >>> ledger.charge(
            ...     accounting.dp_sgd_event(4.0, 1.0),  # every example is in one batch an epoch
            ...     count=10,
            ...     estimate=SelfComposedDpEvent(accounting.dp_sgd_event(4.0, 0.01), 100),
            ... )
            >>> statement = ledger.statement(1e-5)
            >>> round(statement.epsilon_rdp, 2), round(statement.epsilon_estimate, 2)
            (3.62, 0.3)

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if the event is not supported, or a value is out of range. The ledger is
                then as it was.
        """
        count = _validate.integer("count", count, minimum=0, maximum=events.MAX_COUNT)
        copy, leaves = self._reduced(event)
        entry = Release(
            copy,
            count,
            _validate.text("description", description),
            release.checked_details(details),
            None if estimate is None else events.checked(estimate, "estimate"),
        )
        if count == 0:
            return
        self._append(self._origin, entry)
        self._counts = _sum(self._counts, leaves, count)

    @property
    def releases(self) -> tuple[Release, ...]:
        """What has been charged, in order."""
        merged: list[Release] = []
        for _, entry in self._entries:
            if merged and merged[-1].same_kind(entry):
                merged[-1] = dataclasses.replace(merged[-1], count=merged[-1].count + entry.count)
            else:
                merged.append(dataclasses.replace(entry, details=dict(entry.details)))
        return tuple(merged)

    def epsilon(self, delta: float, accountant: str = "rdp") -> float:
        """Returns the epsilon of everything charged so far.

        Args:
            delta: in (0, 1).
            accountant: `"rdp"` (milliseconds) or `"pld"` (tighter; up to a second). Defaults to
                `"rdp"`.

        Returns:
            Epsilon; 0 for an empty ledger, infinite if a non-private event was charged.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if an argument is out of range, or `accountant` is `"pld"` and a zCDP event
                was charged.
        """
        delta, accountant = _checked(delta, accountant)
        return guarantees.epsilon_of(self._counts, delta, accountant)

    def curve(
        self, deltas: Sequence[float] | np.ndarray | None = None, accountant: str = "rdp"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns epsilon as a function of delta, for a picture.

        Args:
            deltas: each in (0, 1). Defaults to 33 of them, evenly spaced in their logarithm from
                1e-10 to 1e-2.
            accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

        Returns:
            The deltas and their epsilons, float64, of equal shape `(len(deltas),)`.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: as in `epsilon`.

        Example:
            >>> ledger = PrivacyLedger()
            >>> ledger.charge(dp_accounting.GaussianDpEvent(2.0))
            >>> deltas, epsilons = ledger.curve([1e-6, 1e-5, 1e-4], accountant="pld")
            >>> epsilons.round(2).tolist()
            [2.25, 1.99, 1.7]
        """
        points = np.logspace(-10.0, -2.0, 33) if deltas is None else deltas
        if np.ndim(points) != 1 or not len(points):
            raise _validate.type_error("deltas", deltas, "a sequence of numbers")
        checked = np.array([_validate.delta("deltas", delta) for delta in points])
        return checked, np.array([self.epsilon(delta, accountant) for delta in checked])

    def delta(self, epsilon: float, accountant: str = "rdp") -> float:
        """Returns the delta of everything charged so far, for a given epsilon.

        Args:
            epsilon: 0 or above, possibly infinite.
            accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

        Returns:
            Delta, at most 1.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: as in `epsilon`.
        """
        epsilon = _validate.non_negative("epsilon", epsilon, allow_infinity=True)
        accountant = _validate.one_of("accountant", accountant, guarantees.ACCOUNTANTS)
        return guarantees.delta_of(self._counts, epsilon, accountant)

    def epsilon_after(
        self, event: dp_accounting.DpEvent, count: int, delta: float, accountant: str = "rdp"
    ) -> float:
        """Returns what epsilon would be if an event were charged as well; charges nothing.

        Args:
            event: the mechanism.
            count: how often it would be released, 0 or above.
            delta: in (0, 1).
            accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

        Returns:
            Epsilon.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: as in `charge` and `epsilon`.
        """
        count = _validate.integer("count", count, minimum=0, maximum=events.MAX_COUNT)
        delta, accountant = _checked(delta, accountant)
        counts = _sum(self._counts, self._reduced(event)[1], count)
        return guarantees.epsilon_of(counts, delta, accountant)

    def remaining_steps(
        self,
        event: dp_accounting.DpEvent,
        target_epsilon: float,
        delta: float,
        accountant: str = "rdp",
    ) -> int:
        """Returns how many more releases of an event stay within a target epsilon.

        Args:
            event: the mechanism.
            target_epsilon: epsilon not to exceed, 0 or above, possibly infinite.
            delta: in (0, 1).
            accountant: `"rdp"` (under a millisecond once the event is known) or `"pld"` (seconds).
                Defaults to `"rdp"`.

        Returns:
            The number of releases: 0 if none fits or the target is exceeded already,
            `sys.maxsize` if there is no limit.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: as in `charge` and `epsilon`.
        """
        target = _validate.non_negative("target_epsilon", target_epsilon, allow_infinity=True)
        delta, accountant = _checked(delta, accountant)
        step = self._reduced(event)[1]
        return calibration.further_steps(self._counts, step, target, delta, accountant)

    def mark_not_private(self, reason: str) -> None:
        """Records that there is no guarantee whatever was charged; cannot be undone.

        Args:
            reason: why, such as `"fixed random seed"`. Repeating one changes nothing.

        Raises:
            TypeError: if the reason is not a string.
            ValueError: if it is empty.
        """
        reason = _validate.text("reason", reason)
        if reason not in self._reasons:
            self._reasons.append(reason)

    @property
    def not_private_reasons(self) -> tuple[str, ...]:
        """Why there is no guarantee, in the order marked; empty if nothing speaks against it."""
        return tuple(self._reasons)

    def statement(self, delta: float) -> statement.PrivacyStatement:
        """Writes down what has been released and what it guarantees.

        Args:
            delta: in (0, 1); below one over the number of examples.

        Returns:
            The statement; `print` it, or take its `to_dict` or `to_json`.

        Raises:
            TypeError: if delta is not a number.
            ValueError: if delta is out of range.
        """
        return statement.make(
            self.releases, self._counts, self._reasons, _validate.delta("delta", delta)
        )

    def to_json(self) -> str:
        """Writes the ledger as JSON, with the version of the format and a digest in it.

        Returns:
            The text, for `from_json`.
        """
        return serialization.dump(self._entries, self._reasons)

    @classmethod
    def from_json(cls, text: str) -> "PrivacyLedger":
        """Reads a ledger that `to_json` has written.

        The text holds a digest of itself and the number of all releases, so that one which was
        cut, damaged or edited is refused. They are no signature: whoever computes them anew can
        write any ledger.

        Args:
            text: the JSON text.

        Returns:
            An equal ledger.

        Raises:
            TypeError: if the argument is not a string.
            ValueError: if the text is malformed, of another version of the format, does not fit
                its digest or its number of releases, or holds an event or a value that `charge`
                refuses.
        """
        entries, reasons = serialization.load(text)
        ledger = cls()
        try:
            for origin, entry in entries:
                ledger._origin = _validate.text("origin", origin)
                ledger.charge(
                    entry.event,
                    entry.count,
                    description=entry.description,
                    details=entry.details,
                    estimate=entry.estimate,
                )
            ledger._origin = uuid.uuid4().hex
            for reason in reasons:
                ledger.mark_not_private(reason)
        except TypeError as error:
            raise ValueError(f"`text` must be the JSON of a privacy ledger: {error}") from None
        return ledger

    def copy(self) -> "PrivacyLedger":
        """Returns an equal ledger that is charged independently of this one."""
        twin = type(self)()
        twin._entries = list(self._entries)
        twin._reasons = list(self._reasons)
        twin._counts = dict(self._counts)
        return twin

    def union(self, other: "PrivacyLedger") -> "PrivacyLedger":
        """Returns a ledger of everything that either ledger knows of, each charge counted once.

        A file saved earlier and the ledger in memory share a history. Neither replacing one by
        the other (forgets what was spent since) nor adding both (counts the shared part twice)
        is right. So every charge remembers which ledger object made it; copies and ledgers read
        from a file count as new objects. Of the charges of one object the longer record wins,
        those of different objects add up.

        Args:
            other: the ledger to combine with; neither is changed.

        Returns:
            A new ledger. Union with itself or with an earlier state of itself changes nothing.

        Raises:
            TypeError: if the argument is not a ledger.
        """
        if not isinstance(other, PrivacyLedger):
            raise _validate.type_error("other", other, "a PrivacyLedger")
        mine, theirs = _steps_by_origin(self._entries), _steps_by_origin(other._entries)
        result = type(self)()
        for entries, counts, rival, wins_ties in (
            (self._entries, mine, theirs, True),
            (other._entries, theirs, mine, False),
        ):
            for origin, entry in entries:
                lead = counts[origin] - rival.get(origin, 0)
                if lead > 0 or (lead == 0 and wins_ties):
                    result._append(origin, entry)
                    leaves = events.leaves(entry.event)
                    result._counts = _sum(result._counts, leaves, entry.count)
        for reason in (*self._reasons, *other._reasons):
            result.mark_not_private(reason)
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PrivacyLedger):
            return NotImplemented
        mine, theirs = self.releases, other.releases
        return (
            self._reasons == other._reasons
            and len(mine) == len(theirs)
            and all(
                a.count == b.count and a.same_kind(b) for a, b in zip(mine, theirs, strict=True)
            )
        )

    __hash__ = None  # mutable

    def __repr__(self) -> str:
        return (
            f"PrivacyLedger(releases={len(self._entries)}, "
            f"not_private_reasons={tuple(self._reasons)!r})"
        )

    def _append(self, origin: str, entry: Release) -> None:
        if self._entries:
            last_origin, last = self._entries[-1]
            if last_origin == origin and last.same_kind(entry):
                total = _validate.integer(
                    "count", last.count + entry.count, maximum=events.MAX_COUNT
                )
                self._entries[-1] = origin, dataclasses.replace(entry, count=total)
                return
        self._entries.append((origin, entry))

    def _reduced(
        self, event: dp_accounting.DpEvent
    ) -> tuple[dp_accounting.DpEvent, dict[events.Leaf, int]]:
        """Checks and reduces an event; the last one is kept, as steps repeat it."""
        if self._last_charged is None or self._last_charged[0] != event:
            copy = events.checked(event)
            self._last_charged = copy, events.leaves(copy)
        return self._last_charged


def _sum(
    counts: Mapping[events.Leaf, int], more: Mapping[events.Leaf, int], times: int
) -> dict[events.Leaf, int]:
    total = dict(counts)
    if times:
        for leaf, count in more.items():
            total[leaf] = total.get(leaf, 0) + times * count
    return total


def _steps_by_origin(entries: Iterable[tuple[str, Release]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for origin, entry in entries:
        total[origin] = total.get(origin, 0) + entry.count
    return total


def _checked(delta: float, accountant: str) -> tuple[float, str]:
    return (
        _validate.delta("delta", delta),
        _validate.one_of("accountant", accountant, guarantees.ACCOUNTANTS),
    )
