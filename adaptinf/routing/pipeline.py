"""A routed model as a transformers pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from transformers import TextGenerationPipeline

from adaptinf.data import Message, Sample
from adaptinf.data.sample import Role
from adaptinf.errors import DataError

if TYPE_CHECKING:
    from adaptinf.routing.model import RoutedModel


class RoutedPipeline(TextGenerationPipeline):
    """``transformers.TextGenerationPipeline``, whose requests go through the adapters that the router chooses.

    Each batch is routed as it arrives and runs once, whatever adapters it needs. The router is shown a chat's messages,
    or a plain text as a user's only message; the model is given what the pipeline makes of them. Everything else
    (batches, sampling, beams, streams of requests) is the pipeline's own.

    Made by :meth:`RoutedModel.pipeline`.
    """

    def __init__(self, *args: Any, routed: RoutedModel, **options: Any) -> None:
        super().__init__(*args, **options)
        self.routed = routed

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> Any:
        requests = model_inputs["prompt_text"]
        batch = requests if isinstance(requests, list) else [requests]
        with self.routed.dispatched([_sample(str(i), request) for i, request in enumerate(batch)]):
            return super()._forward(model_inputs, **options)


def _sample(id: str, request: Any) -> Sample:
    """The request as routers see it: a text, or the messages of a chat up to the answer that is asked for."""
    if isinstance(request, str):
        return Sample.from_instruction(id, request, "", task="")
    messages = request.messages
    if messages[-1]["role"] == "assistant":  # the beginning of the answer
        messages = messages[:-1]
    return Sample(id, tuple(_message(message) for message in messages), "", "")


def _message(message: Mapping[str, Any]) -> Message:
    if message["role"] not in get_args(Role):
        raise DataError("is no role that routers know", item=message["role"], remedy=f"use {', '.join(get_args(Role))}")
    return Message(message["role"], (_text(message["content"]),))


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    if foreign := [part["type"] for part in content if part["type"] != "text"]:
        raise DataError("is no text", item=f"content of type {foreign[0]!r}", remedy="use RoutedModel.generate")
    return "".join(part["text"] for part in content)
