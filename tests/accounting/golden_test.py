"""Epsilon against Opacus, frozen: another implementation of RDP, and of the PLD by PRVs."""

import pytest

from tfdp import accounting

DELTA = 1e-5

# Opacus 1.6.0. RDP: `compute_rdp` and `get_privacy_spent` of `opacus.accountants.analysis.rdp` at
# `tfdp.accounting.RDP_ORDERS`. PRV: the estimate of `PRVAccountant._get_dprv(eps_error=1e-3,
# delta_error=1e-8).compute_epsilon(1e-5, 1e-8, 1e-3)`, which is within about 1e-3 of the truth.
OPACUS = [
    # q, noise, steps, RDP, PRV
    (1e-4, 0.5, 100_000, 3.2561231637080814, 2.0566308236438635),
    (1e-4, 1.0, 100_000, 0.48217315795956045, 0.13187250534839084),
    (1e-3, 0.7, 10_000, 2.024672903782695, 1.2449712545466665),
    (512 / 60_000, 1.23, 4688, 2.581137537993893, 2.3635359926961463),
    (0.01, 1.0, 1000, 2.1013652716430564, 1.8282366647643948),
    (0.01, 0.5, 100, 8.030725352808414, 6.476209932950914),
    (0.01, 4.0, 100_000, 3.6881128013916613, 3.406617674877419),
    (0.05, 2.0, 2000, 5.924203383298618, 5.471738471958824),
    (0.1, 10.0, 10_000, 4.750313206156501, 4.396355376992442),
    (0.2, 5.0, 500, 4.268835429902457, 3.9392831527459604),
    (0.5, 10.0, 1000, 8.11903020242986, 7.545170743556135),
    (0.5, 3.0, 1, 0.8832532232534192, 0.7805823558575703),
    (0.5, 1.0, 10, 11.537106668879563, 10.459927284721125),
]


@pytest.mark.parametrize(("q", "noise", "steps", "rdp", "prv"), OPACUS)
def test_rdp_of_opacus(q, noise, steps, rdp, prv):
    """Never below; above by what the series of dp_accounting loses at fractional orders."""
    looser = 2e-3 if q == 0.5 else 1e-3
    epsilon = accounting.epsilon(noise, q, steps, DELTA)
    assert rdp * (1 - 1e-9) <= epsilon <= rdp * (1 + looser)


@pytest.mark.parametrize(("q", "noise", "steps", "rdp", "prv"), OPACUS)
def test_prv_of_opacus(q, noise, steps, rdp, prv):
    """Never below; the mesh of so small a q is bounded by time."""
    looser = 3e-3 if q == 1e-4 else 1e-3
    epsilon = accounting.epsilon(noise, q, steps, DELTA, "pld")
    assert prv * (1 - 1e-4) <= epsilon <= prv * (1 + looser)
