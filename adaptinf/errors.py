"""One class per failure. Every message names the item at fault and says what to do about it.

``adaptinf_kernels`` has its own errors (it never imports this package); everything above it raises these.
"""

from __future__ import annotations


class AdaptinfError(Exception):
    """Base of every error raised on purpose by adaptinf.

    ``item`` names what is at fault (a sample id, a file and line, a configuration key), ``remedy`` what to do.
    """

    def __init__(self, problem: str, *, item: str = "", remedy: str = "") -> None:
        self.problem, self.item, self.remedy = problem, item, remedy
        text = f"{item}: {problem}" if item else problem
        super().__init__(f"{text}\n  remedy: {remedy}" if remedy else text)


class ConfigError(AdaptinfError):
    """A configuration key is unknown, or its value is impossible."""


class MissingDependencyError(AdaptinfError):
    """An optional package or file that this action needs is absent."""


class DataError(AdaptinfError):
    """A dataset cannot be read, or too much of it is broken."""


class RecordError(DataError):
    """One record is broken; readers turn it into a quarantine entry."""


class ImageError(RecordError):
    """A picture is missing, truncated, too large, of a refused format, or outside the data root."""


class EmptyTaskError(DataError):
    """A task has no usable training (or test) sample."""


class DuplicateIdError(DataError):
    """Two samples share an id; every decision is keyed by it."""


class BudgetError(AdaptinfError):
    """A budget is negative, zero, or larger than the pool."""


class ClusterCountError(AdaptinfError):
    """More clusters were asked for than there are samples."""


class NoUsableScorerError(AdaptinfError):
    """Every scorer of a cluster is constant or not a number."""


class UnsupportedModelError(AdaptinfError):
    """The model lacks a part that this action needs (a head, decoder layers, a chat template)."""


class SampleTooLongError(AdaptinfError):
    """A sample has more tokens than the model's context."""


class EmptyAnswerError(AdaptinfError):
    """An answer tokenises to nothing, so there is nothing to learn from or to score."""


class LabelError(AdaptinfError):
    """The answer tokens found by the chat template do not decode to the answer."""


class NonFiniteError(AdaptinfError):
    """A loss, a gradient, a feature or a score is NaN or infinite."""


class SolverError(AdaptinfError):
    """A linear system was not solved: it is not positive definite, or the iteration did not converge."""


class AdapterMismatchError(AdaptinfError):
    """An adapter does not fit the model."""


class IdentityError(AdaptinfError):
    """Two artefacts were made by different models, sketches or configurations and cannot be mixed."""


class ArtefactError(AdaptinfError):
    """A stored artefact is missing, incomplete or does not match its hash."""
