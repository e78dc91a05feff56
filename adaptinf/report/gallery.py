"""The gallery: exhibits in groups, pictures as data URIs, texts cut to what a card can hold."""

from __future__ import annotations

import base64

from adaptinf.report.run_view import Exhibit, Step

_HEADINGS = {
    "selected": "Selected: trained on at this step",
    "not selected": "Not selected at this step",
    "kept": "Kept in the pool for later steps",
    "dropped": "Dropped from the pool for good",
}
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


def groups(step: Step) -> list[tuple[str, list[Exhibit]]]:
    """The exhibits of a step under the headings of their decisions; "kept" only where something was dropped."""
    prunes = any(item.decision == "dropped" for item in step.gallery)
    names = list(dict.fromkeys([*_HEADINGS, *(item.decision for item in step.gallery)]))
    found = []
    for name in names:
        items = [item for item in step.gallery if item.decision == name]
        if items and (prunes or name != "kept"):
            found.append((_HEADINGS.get(name, name), items))
    return found


def data_uri(picture: bytes | None) -> str:
    """The picture as a ``data:`` URI; empty for none, and for bytes that do not begin as a picture does."""
    for signature, kind in _SIGNATURES.items():
        if picture is not None and picture.startswith(signature):
            return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return ""


def excerpt(text: str, length: int) -> str:
    """At most ``length`` characters, cut at a space where there is one near."""
    text = text.strip()
    if len(text) <= length:
        return text
    head = text[: length - 1]
    space = head.rfind(" ", length * 3 // 4)
    return (head[:space] if space > 0 else head).rstrip() + "…"
