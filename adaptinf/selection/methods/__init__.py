"""How other papers choose samples; importing this registers them all as selectors."""

from __future__ import annotations

from adaptinf.selection.methods.coincide import Coincide
from adaptinf.selection.methods.coverage import CoverageCentric
from adaptinf.selection.methods.d2 import D2Pruning
from adaptinf.selection.methods.dbp import DensityBasedPruning
from adaptinf.selection.methods.infobatch import InfoBatch
from adaptinf.selection.methods.less import Less
from adaptinf.selection.methods.oasis import Oasis
from adaptinf.selection.methods.ranked import Ranked
from adaptinf.selection.methods.rehearsal import Rehearsal
from adaptinf.selection.methods.rotation import Rotation
from adaptinf.selection.methods.self_filter import SelfFilter
from adaptinf.selection.methods.semantic import SemanticDedup
from adaptinf.selection.methods.tive import Tive

__all__ = [
    "Coincide",
    "CoverageCentric",
    "D2Pruning",
    "DensityBasedPruning",
    "InfoBatch",
    "Less",
    "Oasis",
    "Ranked",
    "Rehearsal",
    "Rotation",
    "SelfFilter",
    "SemanticDedup",
    "Tive",
]
