"""Pictures from files or bytes: an allow-list of formats, bomb- and truncation-safe, never outside the data root."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import PIL.ImageOps

from adaptinf.data.sample import Image
from adaptinf.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb (256 MiB as RGB); here it is an error."""


def load_image(image: Image, *, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode a picture to RGB, upright as its EXIF orientation says.

    Transparency is composited on white, 16-bit grey is scaled to 8 bits, an animation gives its first frame. The
    format is told from the content, never from the name, and must be one of ``FORMATS``.

    Raises:
        ImageError: missing, unreadable, truncated, of a refused format, or with more than ``max_pixels`` pixels.
    """
    with _opened(image, max_pixels) as picture:
        return _upright_rgb(picture)


def encode_png(picture: PIL.Image.Image) -> bytes:
    """Lossless bytes of a picture that exists in memory only; stored uncompressed, so that no zlib version shows."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def resolve_under(root: Path, relative: str | Path) -> Path:
    """The absolute path of ``relative`` inside ``root``, symbolic links followed.

    Raises:
        ImageError: ``..``, an absolute path or a symbolic link leads out of the root, or the name is impossible.
    """
    item = str(relative)[:200]
    try:
        base = root.resolve()
        path = (base / relative).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte, a name too long, a loop of links
        raise ImageError(f"not a possible path ({error})", item=item, remedy="repair the record") from error
    if not path.is_relative_to(base):
        raise ImageError(
            f"leaves the data root {base}", item=item, remedy="move the file under the root, or choose a wider root"
        )
    return path


class ImageFolder:
    """Turns what a record says of a picture into an ``Image``; each file is checked once.

    Args:
        root: folder that every path is relative to and may not leave; ``None`` allows encoded bytes only.
        max_pixels: a picture with more is refused, from its header, before anything is decoded.
        verify: decode every picture fully; otherwise format and size are read from the header only.
    """

    def __init__(self, root: Path | None, *, max_pixels: int = MAX_PIXELS, verify: bool = True) -> None:
        self.root, self.max_pixels, self.verify = root, max_pixels, verify
        self._checked: dict[str, Image] = {}

    def image(self, reference: object) -> Image:
        """A picture given as a path, bytes, ``{"bytes", "path"}`` (the datasets library's form) or a PIL image.

        Raises:
            ImageError: see ``load_image`` and ``resolve_under``.
        """
        if isinstance(reference, dict):
            data, path = reference.get("bytes"), reference.get("path")
            reference = path if data is None else data
        if isinstance(reference, PIL.Image.Image):
            return self._check(Image(data=encode_png(flatten(reference))))
        if isinstance(reference, (bytes, bytearray, memoryview)):
            return self._check(Image(data=bytes(reference)))
        if not isinstance(reference, str) or not reference:
            raise ImageError(
                f"a picture is a path, bytes or {{bytes, path}}, not {type(reference).__name__}",
                remedy="repair the record",
            )
        if reference not in self._checked:
            if self.root is None:
                raise ImageError("no root folder for pictures is set", item=reference[:200], remedy="set image_root")
            self._checked[reference] = self._check(Image(path=resolve_under(self.root, reference)))
        return self._checked[reference]

    def _check(self, image: Image) -> Image:
        with _opened(image, self.max_pixels) as picture:
            if self.verify:
                picture.draft(picture.mode, (1, 1))  # a JPEG is then decoded whole, but at an eighth of its size
                _upright_rgb(picture)
        return image


def flatten(picture: PIL.Image.Image) -> PIL.Image.Image:
    """RGB pixels of any mode: transparency on white, deeper grey scaled to 8 bits."""
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, "white")
        return PIL.Image.alpha_composite(white, rgba).convert("RGB")
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return picture.convert("RGB")


def _upright_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    return flatten(PIL.ImageOps.exif_transpose(picture))


@contextmanager
def _opened(image: Image, max_pixels: int) -> Iterator[PIL.Image.Image]:
    """An open picture of allowed format and size; whatever goes wrong inside is an ``ImageError`` that names it."""
    item = str(image.path) if image.path is not None else f"{len(image.read())} bytes of picture"
    try:
        with PIL.Image.open(io.BytesIO(image.read()), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{width} x {height} pixels are more than max_pixels = {max_pixels}",
                    item=item,
                    remedy="shrink the picture or raise data.max_pixels",
                )
            yield picture
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        problem = f"not a picture in one of the formats {', '.join(FORMATS)}"
        raise ImageError(problem, item=item, remedy=_REPAIR) from error
    except Exception as error:  # on hostile bytes Pillow raises whatever its parsers run into
        raise ImageError(f"cannot be read ({type(error).__name__}: {error})", item=item, remedy=_REPAIR) from error


_REPAIR = "check the path; replace the file by a whole JPEG, PNG or WebP, or remove the record"
