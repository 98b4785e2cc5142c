"""Pictures of every kind become upright 8-bit grey or colour; what cannot is named."""

import binascii
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from core_jax.errors import UserError
from tests.smooth_images import file_of, smooth_image
from vit_jax.image_files import BadImageError, open_image


def decode(content, channels=3, **options):
    image, _ = open_image(content, "a picture").decoded(channels, **options)
    return np.asarray(image)


def test_plain_pictures_are_as_pillow_decodes_them():
    image = smooth_image(30, 20)
    np.testing.assert_array_equal(decode(file_of(image)), np.asarray(image))
    np.testing.assert_array_equal(decode(file_of(image), 1), np.asarray(image.convert("L")))
    assert open_image(file_of(image), "a picture").size == (30, 20)


def test_grey_becomes_colour_and_colour_grey():
    grey = smooth_image(9, 7, mode="L")
    assert (decode(file_of(grey)) == np.asarray(grey)[..., None]).all()
    assert decode(file_of(grey), 1).shape == (7, 9)
    black_and_white = Image.fromarray(np.array([[True, False]]))
    assert decode(file_of(black_and_white), 1).tolist() == [[255, 0]]


def test_printers_colours_are_read():
    image = smooth_image(16, 16)
    found = decode(file_of(image.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(found.astype(int) - np.asarray(image)).mean() < 3  # inverted colours would be off by 100


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(form):
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert decode(file_of(Image.fromarray(values), form), 1).tolist() == [[0, 100, 255]]


def test_sixteen_bits_of_each_colour_are_scaled():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", binascii.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # two pixels of three times 16 bits
    row = b"\x00" + struct.pack(">6H", 0, 257 * 100, 65535, 257 * 7, 257 * 8, 257 * 9)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
    assert decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).tolist() == [[[0, 100, 255], [7, 8, 9]]]


def test_shares_of_white_and_whole_numbers_are_scaled():
    assert decode(file_of(Image.fromarray(np.array([[0, 0.2, 1]], np.float32)), "TIFF"), 1).tolist() == [[0, 51, 255]]
    assert decode(file_of(Image.fromarray(np.array([[0, 100, 255]], np.int32)), "TIFF"), 1).tolist() == [[0, 100, 255]]
    for unclear in (np.array([[-1.0, 0.5]], np.float32), np.array([[0, 70000]], np.int32)):
        with pytest.raises(BadImageError, match="its values go from"):
            decode(file_of(Image.fromarray(unclear), "TIFF"))


def test_transparent_places_are_white():
    colours = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    assert decode(file_of(Image.fromarray(colours))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = Image.frombytes("P", (2, 1), bytes([0, 1]))
    palette.putpalette([200, 0, 0, 0, 0, 200])
    assert decode(file_of(palette)).tolist() == [[[200, 0, 0], [0, 0, 200]]]
    assert decode(file_of(palette, transparency=1)).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_moving_pictures_the_first_is_taken(form):
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    options = {"lossless": True} if form == "WEBP" else {}
    content = file_of(first, form, save_all=True, append_images=[second], **options)
    assert (decode(content) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_stand_upright(orientation, form):
    corners = np.kron(np.array([[0, 80, 160], [250, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    # What Exif says about row 0 and column 0 of the file: TIFF 6.0, tag 274.
    stored = {
        1: corners,
        2: corners[:, ::-1],
        3: corners[::-1, ::-1],
        4: corners[::-1],
        5: corners.T,
        6: corners.T[::-1],
        7: corners.T[::-1, ::-1],
        8: corners.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = file_of(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif)
    opened = open_image(content, "a picture")
    assert opened.size == (48, 32)
    found = np.asarray(opened.decoded(1)[0]).astype(int)
    assert np.abs(found - corners).max() < 5


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_can_be_decoded_smaller(form):
    more = {} if form == "JPEG" else {"save_all": True, "append_images": [smooth_image(203, 101, seed=1)]}
    content = file_of(smooth_image(203, 101), form, quality=95, **more)
    for shrink, divisor in ((1.9, 1), (2.0, 2), (5.0, 4), (20.0, 8)):
        image, found = open_image(content, "a picture").decoded(3, shrink)
        assert (found, image.size) == (divisor, (-(-203 // divisor), -(-101 // divisor)))
    image, found = open_image(file_of(smooth_image(203, 101)), "a picture").decoded(3, 8.0)
    assert (found, image.size) == (1, (203, 101))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_pictures_are_named(form):
    content = file_of(smooth_image(64, 64), form)
    for length in (0, 7, len(content) // 2):
        with pytest.raises(BadImageError, match=r"^folder/broken "):
            open_image(content[:length], "folder/broken").decoded(3)


def test_other_files_are_no_images():
    with pytest.raises(UserError, match=r"notes\.jpg is no image of a format"):
        open_image(b"These are notes.", "notes.jpg")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_small_files_of_enormous_pictures_are_refused(side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", binascii.crc32(header))
    content += struct.pack(">I", 0) + b"IDAT"
    with pytest.raises(BadImageError, match=r"bomb\.png asks for more than 89,478,485 pixels"):
        open_image(content, "bomb.png")


def test_damaged_notes_of_the_camera_do_not_spoil_a_picture():
    content = file_of(smooth_image(16, 16), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        assert decode(content).shape == (16, 16, 3)
