"""A conversation rendered by a chat template and cut at the borders of the assistant's turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError

from adaptinf.data import Image, Message, Sample
from adaptinf.errors import LabelError, UnsupportedModelError

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For tokenizers without a chat template: one turn a line, the assistant's turns end with the EOS token."""


class Renderer(Protocol):
    """A tokenizer or a processor."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Segment:
    """A stretch of the rendered text. ``answer`` is what the assistant says in it, None where it is no turn of his."""

    text: str
    images: tuple[Image, ...] = ()
    answer: str | None = None


def segments(
    sample: Sample, renderer: Renderer, template: str | None, *, parts: bool, with_answer: bool = True
) -> list[Segment]:
    """The rendered conversation as prompt, answer, prompt, answer, ...

    The border before an assistant's turn is where the conversation up to it, rendered with the generation prompt,
    ends; the border behind it is where the conversation including it ends. Both renderings must be prefixes of the
    whole. ``parts``: the template takes a list of text and image parts instead of a string. Raises LabelError where
    the template is not such an append-only one.
    """
    messages = [*sample.messages, Message("assistant", (sample.answer,))]
    dialogue = [_message(message, parts) for message in messages]

    def render(count: int, generation_prompt: bool) -> str:
        try:
            return renderer.apply_chat_template(
                dialogue[:count], chat_template=template, tokenize=False, add_generation_prompt=generation_prompt
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise UnsupportedModelError(
                f"the chat template refuses this conversation ({error})",
                item=sample.id,
                remedy="use roles and an order of turns that the model's template knows",
            ) from error

    found: list[Segment] = []
    done = ""
    seen = 0
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for index in turns:
        if messages[index].images:
            raise LabelError("an assistant's turn holds a picture", item=sample.id, remedy="move it to a user's turn")
        prompt = _extends(render(index, True), done, sample.id)
        images = tuple(image for message in messages[seen:index] for image in message.images)
        found.append(Segment(prompt[len(done) :], images))
        done, seen = prompt, index + 1
        if index == turns[-1] and not with_answer:
            break
        whole = _extends(render(index + 1, False), done, sample.id)
        found.append(Segment(whole[len(done) :], answer=messages[index].text))
        done = whole
    return found


def without_images(sample: Sample) -> Sample:
    """The sample with its pictures removed from the turns; the text stays as it is."""
    messages = tuple(
        Message(message.role, (message.text,)) if message.images else message for message in sample.messages
    )
    return Sample(
        sample.id, messages, sample.answer, sample.task, skill=sample.skill, group=sample.group, meta=sample.meta
    )


def check_control_tokens(sample: Sample, control_tokens: Sequence[str]) -> None:
    """Text that would be tokenised as a control token could forge turns or pictures, so it is refused."""
    texts = [message.text for message in sample.messages] + [sample.answer]
    for token in control_tokens:
        if any(token in text for text in texts):
            raise LabelError(
                f"the text contains the model's control token {token!r}",
                item=sample.id,
                remedy="remove or rewrite it in the data, or drop the sample",
            )


def _message(message: Message, parts: bool) -> dict[str, Any]:
    if not parts:
        return {"role": message.role, "content": message.text}
    content = [{"type": "image"} if isinstance(p, Image) else {"type": "text", "text": p} for p in message.parts]
    return {"role": message.role, "content": content}


def _extends(text: str, prefix: str, id: str) -> str:
    if not text.startswith(prefix):
        raise LabelError(
            "the chat template does not only append: an earlier turn is rendered differently once a later one is "
            "there, so the answer's tokens cannot be told from the prompt's",
            item=id,
            remedy="give the tokenizer a chat template that renders every turn the same way at every place",
        )
    return text
