"""``extract`` as a run's settings say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from adaptinf_kernels import Preconditioner

from adaptinf.capture.extract import SCORES, extract
from adaptinf.capture.features import Features
from adaptinf.config import FeatureConfig
from adaptinf.data import Sample
from adaptinf.models import LanguageModel


def extract_as(
    config: FeatureConfig,
    lm: LanguageModel,
    samples: Sequence[Sample],
    *,
    columns: Iterable[str],
    sketch: bool,
    hidden: bool,
    preconditioners: Mapping[str, Preconditioner] | None = None,
    on_error: Literal["raise", "drop"],
    description: str,
) -> Features:
    """:func:`extract` with the settings of ``config``.

    ``columns`` are the score columns that a selector reads; the counts among them always come along. Without ``sketch``
    no backward is run; without ``hidden`` no hidden means are kept. Raises what ``extract`` raises.
    """
    return extract(
        lm,
        samples,
        sketch=config.make_sketch() if sketch else None,
        layers=config.layers,
        parameters=config.parameters,
        preconditioners=preconditioners,
        scores=[name for name in columns if name in SCORES],
        hidden=config.hidden_layer if hidden else None,
        image_grounding=config.image_grounding,
        loss=config.loss,
        batch_tokens=config.batch_tokens,
        on_nonfinite=config.on_nonfinite,
        on_error=on_error,
        description=description,
    )
