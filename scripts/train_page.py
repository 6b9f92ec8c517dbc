"""The page `report.html` of a training run: it opens in any browser, and loads nothing else.

It shows nothing of the training images that epsilon does not cover: accuracy and gradient norms are
those of the images that the run was evaluated on.
"""

import base64
import html
import io

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tfdp
from tfdp import clipping
from tfdp.scripts.images import Images
from tfdp.scripts.train_report import Report, tidy

PAGE_FILE = "report.html"
_IMAGES = 512
_DELTAS = np.logspace(-10, -2, 17)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
       vertical-align: top; } tr { border-bottom: 1px solid #ddd; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }
.warning { border-left: .3rem solid #c00; padding-left: 1rem; }
"""


def page(
    report: Report,
    statement: tfdp.accounting.PrivacyStatement,
    ledger: tfdp.accounting.PrivacyLedger,
    history: Figure,
    norms: np.ndarray,
) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
        statement: Its privacy statement.
        ledger: Its ledger.
        history: The picture of its epochs.
        norms: Gradient norms of test images, as of `gradient_norms`.
    """
    private = statement.is_private
    epsilon = ", ".join(
        f"{value:.3f} ({name.upper()})"
        for name, value in report.epsilon.items()
        if value is not None
    )
    facts = {
        "test accuracy": f"{report.test_accuracy:.2%} of {report.test_examples:,} images",
        "epsilon": f"{epsilon} at delta = {report.delta:g}" if epsilon else "none",
        "training": f"{report.train_examples:,} examples, {report.steps:,} steps of "
        f"{report.expected_batch_size:,} expected, {report.epochs} epochs",
        "mechanism": f"noise multiplier {report.noise_multiplier:.4g}, "
        f"clip norm {report.l2_norm_clip:g}, sampling probability "
        f"{report.sampling_probability:.4g}",
        "model": f"{report.model} with {report.activation}, {report.parameters:,} parameters",
        "optimizer": f"{report.optimizer}, rate {report.learning_rate:g}"
        + ("" if report.momentum is None else f", momentum {report.momentum:g}"),
        "time": f"{report.seconds:,.0f} s, {report.examples_per_second:,.0f} examples/s",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "command": report.command,
    }
    rows = "".join(
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
    )
    clipped = float(np.mean(norms > report.l2_norm_clip))
    parts = [
        f"<h1>{html.escape(report.dataset)}: {html.escape(report.model)}</h1>",
        "" if private else '<p class="warning">This model is <b>not private</b>: see below.</p>',
        f"<table>{rows}</table>",
        "<h2>Accuracy and epsilon</h2>",
        _image(history, "Test accuracy and epsilon by epoch"),
        "<h2>Gradient norms and the clip norm</h2>",
        _image(_norms(norms, report.l2_norm_clip), "Histogram of gradient norms"),
        f"<p>Of {len(norms):,} <i>test</i> images, at the released weights: {clipped:.0%} of the "
        "gradients are longer than the clip norm. Those of training images are not shown, because "
        "they are not protected.</p>",
    ]
    if private:
        parts += [
            "<h2>Epsilon for other deltas</h2>",
            _image(_curve(ledger, report.delta), "Epsilon as a function of delta"),
        ]
    parts += ["<h2>Privacy statement</h2>", f"<pre>{html.escape(str(statement))}</pre>"]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tfdp: {html.escape(report.dataset)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>"
    )


def gradient_norms(model: keras.Model, images: Images) -> np.ndarray:
    """Norms of the gradients of the first images' losses, over all trainable weights together.

    Args:
        model: A plain model, from what `images` holds to logits.
        images: Images or features, which may be published: test data.

    Returns:
        The norms that are finite, float32, of at most 512 images.
    """
    examples = images.split(min(_IMAGES, len(images)))[0]
    x, y = examples.arrays()
    engine = clipping.RecordingEngine(
        model,
        clipping.ClipBound(1.0).resolve(model),  # Norms are those before clipping.
        clipping.make_plan(model),
        clipping.Context(loop=not tf.config.list_logical_devices("GPU")),
    )

    def losses(y, logits, sample_weight):
        del sample_weight
        return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)

    def norms(x, y):
        result = engine(x, y, None, losses)
        return tf.boolean_mask(result.norms, result.finite)

    signature = [tf.TensorSpec([None, *x.shape[1:]]), tf.TensorSpec([None], tf.int64)]
    norms = tf.function(norms, signature, autograph=False).get_concrete_function()
    size = tfdp.sampling.choose_physical_batch_size(engine.floats_per_example)
    parts = [
        norms(tf.constant(x[k : k + size], tf.float32), tf.constant(y[k : k + size], tf.int64))
        for k in range(0, len(x), size)
    ]
    return np.concatenate([part.numpy() for part in parts])


def _norms(norms: np.ndarray, clip: float) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    positive = norms[norms > 0]
    if len(positive):
        low, high = np.log10(positive.min()), np.log10(positive.max())
        axes.hist(positive, bins=np.logspace(low - 0.01, high + 0.01, 50), color="tab:blue")
    axes.axvline(clip, color="tab:red", linestyle="--")
    axes.annotate(
        f" clip norm {clip:g}", (clip, 0.9), xycoords=("data", "axes fraction"), color="tab:red"
    )
    axes.set(xscale="log", xlabel="norm of an image's gradient", ylabel="images")
    tidy(axes)
    return figure


def _curve(ledger: tfdp.accounting.PrivacyLedger, delta: float) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for name, color in (("rdp", "tab:red"), ("pld", "tab:blue")):
        deltas, epsilons = ledger.curve(_DELTAS, name)
        axes.plot(deltas, epsilons, color=color, linewidth=2, label=name.upper())
    axes.axvline(delta, color="0.4", linestyle="--", linewidth=1, label=f"delta = {delta:g}")
    axes.set(xscale="log", xlabel="delta", ylabel="epsilon")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    tidy(axes)
    return figure


def _image(figure: Figure, text: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
