"""Pictures: what is accepted, how it becomes RGB, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptinf.data import Image, ImageFolder, encode_png, load_image, resolve_under
from adaptinf.errors import ImageError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(picture: PIL.Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    picture = load_image(Image(data=data))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_keep_their_pixels(format, options):
    np.testing.assert_array_equal(pixels(encoded(PIL.Image.fromarray(NOISE), format, **options)), NOISE)


def test_jpeg_is_decoded():
    grey = np.full((40, 60, 3), 128, np.uint8)
    assert np.abs(pixels(encoded(PIL.Image.fromarray(grey), "JPEG")).astype(int) - 128).max() <= 2


def test_transparency_lies_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [0, 128, 255]
    alpha = rgba[0, :, 3:] / 255
    expected = np.round(rgba[0, :, :3] * alpha + 255 * (1 - alpha))
    assert np.abs(pixels(encoded(PIL.Image.fromarray(rgba), "PNG"))[0] - expected).max() <= 1


def test_transparent_palette_and_grey_with_alpha():
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encoded(palette, "PNG", transparency=0))[0], [[255] * 3, [255, 0, 0]])
    grey = PIL.Image.new("LA", (1, 1), (0, 0))
    np.testing.assert_array_equal(pixels(encoded(grey, "PNG"))[0, 0], [255] * 3)


def test_sixteen_bit_grey_is_scaled():
    deep = np.array([[0, 257, 257 * 128, 65535]], np.uint16)
    np.testing.assert_allclose(pixels(encoded(PIL.Image.fromarray(deep), "PNG"))[0, :, 0], [0, 1, 128, 255], atol=1)


def test_exif_orientation_is_applied():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to show it upright
    got = pixels(encoded(PIL.Image.fromarray(NOISE), "PNG", exif=exif))
    np.testing.assert_array_equal(got, np.rot90(NOISE, k=-1))


def test_animation_gives_its_first_frame():
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("PNG", "WEBP"):
        data = encoded(
            frames[0],
            format,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if format == "WEBP" else {}),
        )
        np.testing.assert_array_equal(pixels(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_whatever_the_name_says(format, tmp_path):
    path = tmp_path / "innocent.png"
    path.write_bytes(encoded(PIL.Image.fromarray(NOISE), format))
    with pytest.raises(ImageError, match="JPEG, PNG, WEBP"):
        load_image(Image(path=path))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_decoding():
    with pytest.raises(ImageError, match=r"pixels|bomb"):
        load_image(Image(data=png_claiming(100_000, 100_000)))
    with pytest.raises(ImageError, match=r"9000 x 10000 pixels are more than max_pixels = 89478485"):
        load_image(Image(data=png_claiming(9000, 10000)))
    with pytest.raises(ImageError, match="max_pixels = 2399"):
        load_image(Image(data=encode_png(PIL.Image.fromarray(NOISE))), max_pixels=2399)
    load_image(Image(data=encode_png(PIL.Image.fromarray(NOISE))), max_pixels=2400)


def test_a_bomb_in_a_text_chunk_is_refused():
    data = encode_png(PIL.Image.fromarray(NOISE))
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 * 2**20), 9))
    with pytest.raises(ImageError):
        load_image(Image(data=data[:33] + bomb + data[33:]))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncation_is_found(format, verify):
    whole = encoded(PIL.Image.fromarray(NOISE), format)
    cut = whole[: len(whole) * 2 // 3]
    with pytest.raises(ImageError):
        load_image(Image(data=cut))
    folder = ImageFolder(None, verify=verify)
    folder.image(whole)
    if verify:
        with pytest.raises(ImageError):
            folder.image(cut)


def test_a_large_jpeg_cut_near_its_end_is_found_by_verification():
    noise = np.random.default_rng(1).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    whole = encoded(PIL.Image.fromarray(noise), "JPEG")
    with pytest.raises(ImageError):
        ImageFolder(None).image(whole[: int(len(whole) * 0.95)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_a_picture_or_an_image_error(data):
    whole = bytearray(encoded(PIL.Image.fromarray(NOISE), data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for raw in (cut, data.draw(st.binary(max_size=64))):
        try:
            picture = load_image(Image(data=raw), max_pixels=10**6)
        except ImageError:
            continue
        assert picture.mode == "RGB"


def test_missing_file_and_directory(tmp_path):
    for name in ("absent.png", "."):
        with pytest.raises(ImageError, match="cannot be read"):
            load_image(Image(path=tmp_path / name))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "secret.png").write_bytes(encode_png(PIL.Image.fromarray(NOISE)))
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "ok.png").write_bytes(encode_png(PIL.Image.fromarray(NOISE)))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    (root / "inner" / "near.png").symlink_to(root / "ok.png")
    (root / "loop").symlink_to(root / "loop")
    return root


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "inner/../../secret.png", "link.png", "linked/secret.png", "/etc/passwd", "a\0b"],
)
def test_nothing_outside_the_root_is_reached(root, path):
    with pytest.raises(ImageError):
        resolve_under(root, path)
    with pytest.raises(ImageError):
        ImageFolder(root).image(path)


def test_inside_the_root_links_and_absolute_paths_are_fine(root):
    folder = ImageFolder(root)
    assert folder.image("inner/near.png").path == (root / "ok.png").resolve()
    assert folder.image(str(root / "ok.png")).path == (root / "ok.png").resolve()
    assert folder.image("inner/../ok.png").sha256 == folder.image("ok.png").sha256
    for name in ("loop", "x" * 5000, "absent.png"):
        with pytest.raises(ImageError):
            folder.image(name)


def test_every_form_of_a_picture(root):
    data = (root / "ok.png").read_bytes()
    folder = ImageFolder(root)
    forms = ["ok.png", data, {"bytes": data, "path": None}, {"bytes": None, "path": "ok.png"}, {"path": "ok.png"}]
    forms.append(PIL.Image.fromarray(NOISE))
    for form in forms:
        np.testing.assert_array_equal(np.asarray(load_image(folder.image(form))), NOISE)
    for form in (None, 7, "", {}, {"bytes": None, "path": None}, [data]):
        with pytest.raises(ImageError):
            folder.image(form)
    with pytest.raises(ImageError, match="image_root"):
        ImageFolder(None).image("ok.png")


def test_one_file_is_one_object_read_once(root):
    folder = ImageFolder(root)
    first = folder.image("ok.png")
    (root / "ok.png").unlink()
    assert folder.image("ok.png") is first
