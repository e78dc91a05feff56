"""Which samples made the model what it is: inverse-Hessian products, unlearning, demonstrations, targeted ranking."""

from __future__ import annotations

from adaptinf.influence.demonstrations import (
    DemonstrationInfluence,
    demonstration_influence,
    demonstration_states,
    detail,
)
from adaptinf.influence.eraser import Edit, Solving, apply, correct_response, modify_query, remove
from adaptinf.influence.ihvp import Solution, cg, datainf, exact, hvp, minibatch, ridge, sketched
from adaptinf.influence.ranking import Ranking, targeted_influence

__all__ = [
    "DemonstrationInfluence",
    "Edit",
    "Ranking",
    "Solution",
    "Solving",
    "apply",
    "cg",
    "correct_response",
    "datainf",
    "demonstration_influence",
    "demonstration_states",
    "detail",
    "exact",
    "hvp",
    "minibatch",
    "modify_query",
    "remove",
    "ridge",
    "sketched",
    "targeted_influence",
]
