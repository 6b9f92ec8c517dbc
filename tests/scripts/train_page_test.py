"""The page of a training run: what it says, and that it stands by itself."""

import html.parser
import re

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
from absl import flags

import tfdp
from tfdp.scripts import train, train_page, train_settings
from tfdp.scripts.images import ArrayImages

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Text(html.parser.HTMLParser):
    """Collects the text of a page and the addresses that it loads."""

    def __init__(self, page):
        super().__init__()
        self.text, self.addresses, self.images = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.images.append(attributes["alt"])

    def handle_data(self, data):
        self.text += data


def page_of(folder, *arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--epochs=2", f"--output_dir={folder}", "--verbose=0", *arguments])
    report = train.train(values)
    return report, Text((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_has_the_figures_and_the_statement_and_loads_nothing(tmp_path):
    report, page = page_of(tmp_path)
    assert f"{report.test_accuracy:.2%} of 360 images" in page.text
    assert f"{report.epsilon['rdp']:.3f} (RDP)" in page.text
    assert "not private" not in page.text
    assert (tmp_path / "privacy_statement.txt").read_text().strip() in page.text
    assert len(page.images) == 3
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_a_simulated_run_says_so_and_has_no_curve(tmp_path):
    _, page = page_of(tmp_path, "--simulate_at=64")
    assert "This model is not private" in page.text and "NOT PRIVATE" in page.text
    assert re.search(r"epsilonnone", page.text) and len(page.images) == 2


@pytest.mark.parametrize("count", [1, 7, 600])
def test_gradient_norms_are_those_of_one_image_at_a_time(count):
    model = tfdp.models.digits_mlp(input_shape=(3, 3, 1), num_classes=4)
    random = np.random.default_rng(0)
    x = random.random((count, 3, 3, 1), "float32")
    y = random.integers(0, 4, count)
    found = train_page.gradient_norms(model, ArrayImages(x, y))
    few = slice(0, 20)
    assert found.shape == (min(count, 512),)
    expected = reference.norms(reference.gradients(model, LOSS, x[few], y[few]))
    np.testing.assert_allclose(found[few], expected, rtol=1e-4)
