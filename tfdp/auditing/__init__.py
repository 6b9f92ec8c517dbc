"""Audits: lower bounds on epsilon from what training shows, to hold against what is claimed.

A lower bound above the claim refutes it, at the confidence. One below it proves nothing: audits
find mistakes, and the guarantee comes from the accounting. No result here is protected by privacy.
"""

from tfdp.auditing.audited_model import AuditedModel
from tfdp.auditing.guesses import epsilon_from_guesses, guesses_p_value
from tfdp.auditing.inserted import InsertedCanaries, mislabelled_canaries, random_canaries
from tfdp.auditing.membership import (
    ClassMembership,
    MembershipAttack,
    example_losses,
    membership_attack,
)
from tfdp.auditing.neighbours import Crossing, NeighbourReport, compare_neighbours
from tfdp.auditing.one_run import Guesses, OneRunAudit, one_run_audit
from tfdp.auditing.repeated_runs import (
    RepeatedRunsAudit,
    ThresholdTest,
    repeated_runs_audit,
    scores_of_runs,
)

__all__ = [
    "AuditedModel",
    "ClassMembership",
    "Crossing",
    "Guesses",
    "InsertedCanaries",
    "MembershipAttack",
    "NeighbourReport",
    "OneRunAudit",
    "RepeatedRunsAudit",
    "ThresholdTest",
    "compare_neighbours",
    "epsilon_from_guesses",
    "example_losses",
    "guesses_p_value",
    "membership_attack",
    "mislabelled_canaries",
    "one_run_audit",
    "random_canaries",
    "repeated_runs_audit",
    "scores_of_runs",
]
