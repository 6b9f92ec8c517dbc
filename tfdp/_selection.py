"""What a selection of weight matrices has found, what it cost, and its file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dp_accounting

from tfdp import _validate, accounting
from tfdp.accounting import events, serialization

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "tfdp selection"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Selection:
    """Weight matrices selected by `tfdp.saliency.select`.

    Attributes:
        layers: Paths of the layers whose matrices are kept, best first; for ``"all"`` in the
            model's order.
        names: Paths of the matrices themselves, in the same order.
        scores: Noisy score of each candidate by its layer's path, in the model's order; ``None``
            where none are released.
        event: The privacy event of the selection.
        candidates: Paths of the layers that were to choose from, in the model's order.
        fraction: The share that was asked for.
        mechanism: How it was selected.
        l2_norm_clip: The norm C that gradients were clipped to.
        not_private_reasons: Why there is no guarantee whatever the event says; empty if nothing
            speaks against it.

    Formal guarantee: ``layers``, ``names`` and ``scores`` are together an output of ``event``, if
    there are no ``not_private_reasons``; all else is known without the data.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> first, last = keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")
        >>> model = keras.Sequential([keras.Input((3,)), first, last])
        >>> data = np.zeros((20, 3)), np.zeros(20, "int32")
        >>> selection = tfdp.saliency.select(
        ...     model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), data,
        ...     mechanism="random", fraction=0.5, candidates="all_matrices")
        >>> len(selection.layers), selection.candidates, selection.scores
        (1, ('a', 'b'), None)
    """

    layers: tuple[str, ...]
    names: tuple[str, ...]
    scores: Mapping[str, float] | None
    event: dp_accounting.DpEvent
    candidates: tuple[str, ...]
    fraction: float
    mechanism: str
    l2_norm_clip: float
    not_private_reasons: tuple[str, ...] = ()

    def charge(self, ledger: accounting.PrivacyLedger) -> None:
        """Charges the selection to the ledger of the model that is trained after it.

        ``ledger.charge(selection.event)`` counts the same epsilon; this also marks the ledger
        after a selection with a fixed seed, and words the entry of the privacy statement. Do it
        once, before anything that depends on the selection is released.

        Args:
            ledger: The ledger, such as ``private.ledger``.

        Raises:
            TypeError: If it is not a `tfdp.accounting.PrivacyLedger`.
        """
        if not isinstance(ledger, accounting.PrivacyLedger):
            raise _validate.type_error("ledger", ledger, "a PrivacyLedger")
        for reason in self.not_private_reasons:
            ledger.mark_not_private(reason)
        if isinstance(self.event, dp_accounting.NoOpDpEvent):
            return
        ledger.charge(
            self.event,
            description="Selection of weight matrices",
            details={
                "selected": f"{len(self.layers)} of {len(self.candidates)}, {self.mechanism}",
                "l2_norm_clip": self.l2_norm_clip,
            },
        )

    def figure(self) -> Figure:
        """Draws the scores, a bar for each candidate from the first layer to the last.

        Returns:
            A `matplotlib.figure.Figure`; bars of the selected ones are coloured.

        Raises:
            ValueError: If no scores were released.
        """
        from matplotlib.figure import Figure  # Slow to import, and few who import tfdp need it.

        if self.scores is None:
            raise ValueError(
                "There are scores to draw for mechanism='gaussian' alone. "
                f"Received: a selection with mechanism={self.mechanism!r}"
            )
        count = len(self.candidates)
        figure = Figure(figsize=(8, 1.2 + 0.18 * count), layout="constrained")
        axes = figure.subplots()
        for chosen, colour, label in ((True, "C1", "selected"), (False, "0.7", "not selected")):
            places = [
                k for k, path in enumerate(self.candidates) if (path in self.layers) is chosen
            ]
            scores = [self.scores[self.candidates[place]] for place in places]
            axes.barh(places, scores, color=colour, label=label)
        axes.set_yticks(range(count), self.candidates, fontsize=7)
        axes.set_ylim(count - 0.4, -0.6)
        axes.set_xlabel("noisy sum of squared norms of clipped gradients")
        axes.grid(axis="x", alpha=0.3)
        axes.legend()
        return figure

    def plot(self, path: str | os.PathLike) -> None:
        """Writes `figure` to a file.

        Args:
            path: The file; its ending tells the format.

        Raises:
            TypeError: If it is not a path.
            ValueError: If it is empty, or no scores were released.
        """
        path = _validate.path("path", path)
        self.figure().savefig(path, dpi=150)

    def to_json(self) -> str:
        """Writes the selection as JSON, for `from_json`."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **vars(self)}
        document["event"] = serialization.event_to_dict(self.event)
        return json.dumps(document, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Reads a selection that `to_json` has written.

        Args:
            text: The JSON text.

        Returns:
            An equal selection.

        Raises:
            TypeError: If the argument is not a string.
            ValueError: If the text is not of a selection, or of an unknown version.
        """
        if not isinstance(text, str):
            raise _validate.type_error("text", text, "a string")
        try:
            return cls(**_checked(json.loads(text)))
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"`text` must be the JSON of a selection ({error!r}). Received: text={text[:200]!r}"
            ) from None


def _checked(document: Any) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(Selection)}
    if not isinstance(document, dict) or set(document) != {"format", "version", *fields}:
        raise ValueError(f"it must be an object of {sorted(fields)}, format and version")
    if (document.pop("format"), document.pop("version")) != (FORMAT, VERSION):
        raise ValueError(f"it must be marked {FORMAT!r}, version {VERSION}")
    for name in ("layers", "names", "candidates", "not_private_reasons"):
        if not isinstance(document[name], list):
            raise _validate.type_error(name, document[name], "a list")
        document[name] = tuple(_validate.text(name, entry) for entry in document[name])
    layers, candidates, scores = (document[name] for name in ("layers", "candidates", "scores"))
    if not set(layers) <= set(candidates) or len(document["names"]) != len(layers):
        raise _validate.value_error("layers", layers, "some of the candidates, each with a name")
    if scores is not None:
        if not isinstance(scores, dict) or tuple(scores) != candidates:
            raise _validate.value_error("scores", scores, "a number for each candidate")
        document["scores"] = {path: _validate.real("scores", v) for path, v in scores.items()}
    document["event"] = events.checked(serialization.event_from_dict(document["event"]))
    document["fraction"] = _validate.probability("fraction", document["fraction"])
    document["mechanism"] = _validate.text("mechanism", document["mechanism"])
    document["l2_norm_clip"] = _validate.positive("l2_norm_clip", document["l2_norm_clip"])
    return document
