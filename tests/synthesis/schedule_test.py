"""Noise schedules, against the formulas of their papers."""

import dataclasses

import numpy as np
import pytest

from tfdp.synthesis import NoiseSchedule


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [21, 100, 1000])
def test_variances_add_up_to_one_and_the_image_fades(kind, steps):
    schedule = NoiseSchedule(steps, kind)
    assert schedule.signal.shape == schedule.noise.shape == (steps,)
    np.testing.assert_allclose(schedule.signal**2 + schedule.noise**2, 1, rtol=1e-6)
    assert (np.diff(schedule.signal_variance) < 0).all()
    assert 0 < schedule.signal_variance[-1] < 1e-3
    assert schedule.signal_variance[0] > 0.9


def test_the_cosine_is_that_of_nichol_and_dhariwal():
    t = np.arange(1, 1000)  # The last step is bounded: its variance would be zero.
    expected = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    expected /= np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(NoiseSchedule().signal_variance[:-1], expected, rtol=1e-9)


def test_the_line_is_that_of_ho_and_others():
    variance = NoiseSchedule(kind="linear").signal_variance
    assert variance[0] == pytest.approx(1 - 1e-4)
    assert 1 - variance[-1] / variance[-2] == pytest.approx(0.02)


def test_settings_make_an_equal_schedule_that_cannot_be_changed():
    schedule = NoiseSchedule(50, "linear", "noise")
    assert NoiseSchedule(**schedule.get_config()) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.steps = 60
