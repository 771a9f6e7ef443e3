"""Photographs of every kind, damaged ones, and what is painted on them."""
import os
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadseg import images
from roadseg.errors import InputError
from roadseg.images import (check_image, outline, paint, read_image, resize,
                            resize_pair, scaled_size, thumbnail_size, write_image, write_mask)

NOISE = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_images_work_without_tensorflow_and_imageio():
    code = 'import sys, roadseg.images; sys.exit(len({"tensorflow", "imageio"} & {*sys.modules}))'
    folder = Path(images.__file__).parents[1]
    assert subprocess.run([sys.executable, '-c', code], cwd=folder, check=False).returncode == 0


# Reading --------------------------------------------------------------------------------------

@pytest.mark.parametrize('suffix', ['.png', '.tif', '.webp', '.bmp', '.ppm', '.jp2'])
def test_reading_keeps_size_and_pixels(tmp_path, suffix):
    options = {'lossless': True} if suffix == '.webp' else {}
    path = saved(tmp_path / f'a{suffix}', NOISE, **options)
    image = read_image(path)
    np.testing.assert_array_equal(image, NOISE)
    assert image.dtype == np.uint8 and image.flags.writeable
    assert check_image(path) == (5, 8)


@pytest.mark.parametrize('suffix', ['.jpg', '.MPO'])
def test_a_jpeg_is_read_and_one_with_a_preview_behind_it_too(tmp_path, suffix):
    smooth = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    options = {'save_all': True, 'append_images': [Image.new('RGB', (3, 2))]}
    path = saved(tmp_path / f'a{suffix}', smooth, **(options if suffix == '.MPO' else {}))
    np.testing.assert_allclose(read_image(path), smooth, atol=3)


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', 'PA'])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    picture = Image.fromarray(np.full((4, 6, 3), 102, np.uint8)).convert(mode)
    picture.save(tmp_path / ('x.tif' if mode == 'PA' else 'x.png'))
    path, = tmp_path.iterdir()
    image = read_image(path)
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert (image == 102).all()


def test_transparency_is_dropped_and_the_colours_stay(tmp_path):
    picture = np.full((4, 6, 4), (10, 200, 30, 0), np.uint8)
    assert (read_image(saved(tmp_path / 'a.png', picture)) == (10, 200, 30)).all()
    palette = Image.fromarray(picture[..., :3]).quantize(4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        palette.save(tmp_path / 'b.png', transparency=bytes(4))
        assert (read_image(tmp_path / 'b.png') == (10, 200, 30)).all()


def test_one_bit_becomes_black_and_white(tmp_path):
    mask = np.eye(4, 6) > 0
    np.testing.assert_array_equal(read_image(saved(tmp_path / 'a.png', mask))[..., 1],
                                  np.where(mask, 255, 0))


def test_lab_becomes_rgb(tmp_path):
    Image.new('LAB', (4, 3), (255, 128, 128)).save(tmp_path / 'a.tif')
    np.testing.assert_allclose(read_image(tmp_path / 'a.tif'), np.full((3, 4, 3), 255), atol=3)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new('CMYK', (16, 8), (255, 0, 255, 0)).save(tmp_path / 'a.jpg')
    np.testing.assert_allclose(read_image(tmp_path / 'a.jpg')[4, 8], (0, 255, 0), atol=3)


GREY = np.array([[0, 128, 129, 257, 1000], [32768, 40000, 65000, 65406, 65535]], np.uint16)
EXPECTED = [[0, 0, 1, 1, 4], [128, 156, 253, 254, 255]]


def pgm(path):
    path.write_bytes(b'P5 5 2 65535\n' + GREY.astype('>u2').tobytes())


def tiff_of_motorola(path):
    """A TIFF of 16-bit grey with its bytes the other way round."""
    entries = [(256, 3, 1, 5 << 16), (257, 3, 1, 2 << 16), (258, 3, 1, 16 << 16),
               (259, 3, 1, 1 << 16), (262, 3, 1, 1 << 16), (273, 4, 1, 200),
               (277, 3, 1, 1 << 16), (278, 3, 1, 2 << 16), (279, 4, 1, 20)]
    content = b'MM\0*' + struct.pack('>LH', 8, len(entries))
    content += b''.join(struct.pack('>HHLL', *entry) for entry in entries) + bytes(4)
    path.write_bytes(content.ljust(200, b'\0') + GREY.astype('>u2').tobytes())


@pytest.mark.parametrize('write, name', [
    (lambda path: saved(path, GREY), 'a.png'), (lambda path: saved(path, GREY), 'a.tif'),
    (pgm, 'a.pgm'), (tiff_of_motorola, 'b.tif')])
def test_16_bits_of_grey_are_scaled_and_not_clipped(tmp_path, write, name):
    write(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat(np.array(EXPECTED)[..., np.newaxis], 3, 2))


def test_12_bits_of_grey_are_refused(tmp_path):
    """Pillow does not scale them: white would be nearly black."""
    entries = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 3)]
    content = b'II*\0' + struct.pack('<LH', 8, len(entries))
    content += b''.join(struct.pack('<HHLL', *entry) for entry in entries) + bytes(4)
    (tmp_path / 'a.tif').write_bytes(content.ljust(200, b'\0') + 3 * b'\xff')
    with pytest.raises(InputError, match='a.tif cannot be used: its values have 12 bits; save it'):
        read_image(tmp_path / 'a.tif')


def png_chunk(kind, content):
    return (struct.pack('>L', len(content)) + kind + content
            + struct.pack('>L', zlib.crc32(kind + content)))


def png(width, height, depth, colour, data):
    return (b'\x89PNG\r\n\x1a\n'
            + png_chunk(b'IHDR', struct.pack('>LLBBBBB', width, height, depth, colour, 0, 0, 0))
            + png_chunk(b'IDAT', zlib.compress(data)) + png_chunk(b'IEND', b''))


def test_16_bits_of_colour_are_scaled(tmp_path):
    row = np.array([[0, 257 * 7, 65535], [257 * 200, 257, 0]], '>u2')
    (tmp_path / 'a.png').write_bytes(png(2, 1, 16, 2, b'\0' + row.tobytes()))
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), [[[0, 7, 255], [200, 1, 0]]])


TURNS = {2: NOISE[:, ::-1], 3: NOISE[::-1, ::-1], 4: NOISE[::-1], 5: NOISE.transpose(1, 0, 2),
         6: np.rot90(NOISE, -1), 7: np.rot90(NOISE.transpose(1, 0, 2), 2), 8: np.rot90(NOISE)}


@pytest.mark.parametrize('orientation, expected', TURNS.items())
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_the_rotation_that_a_camera_noted_is_applied(tmp_path, suffix, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f'a{suffix}', NOISE, exif=exif)
    np.testing.assert_array_equal(read_image(path), expected)
    assert check_image(path) == expected.shape[:2]


@pytest.mark.parametrize('orientation, expected', TURNS.items())
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_grey_tiff_that_is_stored_turned(tmp_path, orientation, expected, dtype):
    """Which Pillow would map to memory, without compression, and turn twice."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    scale = np.iinfo(dtype).max // 255
    path = saved(tmp_path / 'a.tif', NOISE[..., 0].astype(dtype) * dtype(scale), exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0], expected[..., 0])
    assert images.orientation(path) == orientation


@pytest.mark.parametrize('tag, kind, content', [
    (0x010f, 5, struct.pack('>II', 1, 3)), (0x0132, 5, struct.pack('>II', 1, 3)),  # Make, DateTime
    (0x011a, 2, b'72 dpi\0\0'), (0x8769, 9, struct.pack('>ii', -7, 0))])   # XResolution, Exif
def test_another_entry_that_is_odd_does_not_keep_it_from_being_turned(tmp_path, tag, kind,
                                                                    content):
    entries = sorted([(0x0112, struct.pack('>HHIHH', 0x0112, 3, 1, 6, 0)),
                      (tag, struct.pack('>HHI', tag, kind, {2: 8, 5: 1, 9: 1}[kind])
                       + (content[:4] if kind == 9 else struct.pack('>I', 38)))])
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x02' + b''.join(entry for _, entry in entries)
    exif += b'\0\0\0\0' + content
    for suffix in ('.jpg', '.webp', '.png'):
        path = saved(tmp_path / f'a{suffix}', NOISE, exif=exif)
        assert read_image(path).shape == TURNS[6].shape
        assert images.orientation(path) == 6


@pytest.mark.parametrize('suffix', ['.png', '.webp'])
def test_exif_that_cannot_be_read_is_none(tmp_path, suffix):
    path = saved(tmp_path / f'a{suffix}', NOISE, exif=b'nothing of the kind')
    assert read_image(path).shape == NOISE.shape and images.orientation(path) == 1


def test_what_pillow_logs_of_a_damaged_file_is_not_printed(tmp_path):
    path = saved(tmp_path / 'a.tif', NOISE)
    content = path.read_bytes()
    place = content.index(struct.pack('<HHI', 277, 3, 1))       # samples of a pixel
    path.write_bytes(content[:place + 8] + struct.pack('<H', 255) + content[place + 10:])
    code = ('import sys\nfrom roadseg.errors import InputError\n'
            'from roadseg.images import read_image\n'
            'try:\n    read_image(sys.argv[1])\nexcept InputError:\n    print("refused")')
    answer = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True,
                            check=True, cwd=Path(__file__).parents[1])
    assert (answer.stdout, answer.stderr) == ('refused\n', '')


def refused(path, *pieces):
    """Checks that both readers refuse a file, on one line that names it."""
    for reader in (read_image, check_image):
        with pytest.raises(InputError) as caught:
            reader(path)
        message = str(caught.value)
        assert '\n' not in message
        for piece in (str(path), *pieces):
            assert piece in message


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp', '.tif'])
def test_animated_and_multi_page_pictures_are_refused(tmp_path, suffix):
    frames = [Image.new('RGB', (8, 5), colour) for colour in ('red', 'white', 'blue')]
    frames[0].save(tmp_path / f'a{suffix}', save_all=True, append_images=frames[1:])
    refused(tmp_path / f'a{suffix}', 'animated or multi-page', 'of 3 pictures')


def test_a_gif_of_one_picture_is_read(tmp_path):
    path = saved(tmp_path / 'a.gif', np.full((4, 6), 7, np.uint8))
    assert (read_image(path) == 7).all()


@pytest.mark.parametrize('width, height, pieces', [
    (10_000, 10_000, ['not a readable image', 'truncated']),
    (10_001, 10_000, ['cannot be used', '10001 x 10000 pixels', '100 megapixels']),
    (60_000, 50_000, ['cannot be used', '3000000000 pixels', '100 megapixels']),
    (2**31 - 1, 2**31 - 1, ['cannot be used', '100 megapixels'])])
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path, width, height, pieces):
    """Each file ends after a byte of pixels."""
    path = tmp_path / 'a.png'
    path.write_bytes(png(width, height, 1, 0, b'\0'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        refused(path, *pieces)


def test_a_photograph_of_48_megapixels_is_read(tmp_path):
    """All of one colour, as a PNG of 1 bit, lest the test take long."""
    path = tmp_path / 'a.png'
    path.write_bytes(png(8000, 6000, 1, 0, bytes(1001) * 6000))
    assert check_image(path) == (6000, 8000)


@pytest.mark.parametrize('array, kind', [(np.zeros((3, 4), np.float32), 'floating point'),
                                         (np.zeros((3, 4), np.int32), '32-bit')])
def test_values_without_a_scale_are_refused(tmp_path, array, kind):
    refused(saved(tmp_path / 'a.tif', array), f'{kind} values', '8 or 16 bits')


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp', '.bmp', '.gif', '.jp2'])
@pytest.mark.parametrize('share', [0.2, 0.7])
def test_a_truncated_picture_is_named(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    path = saved(tmp_path / f'um_000007{suffix}', noise)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    refused(path, 'is not a readable image')


@pytest.mark.parametrize('compression', ['tiff_lzw', 'tiff_adobe_deflate', 'group4'])
def test_a_damaged_tiff_writes_nothing_to_the_terminal(tmp_path, capfd, compression):
    """libtiff would, past Python."""
    picture = NOISE[..., 0] > 127 if compression == 'group4' else NOISE
    path = saved(tmp_path / 'a.tif', picture, compression=compression)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        content[rng.integers(8, 30)] = rng.integers(0, 256)
        path.write_bytes(content)
        with suppress(InputError):
            read_image(path)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('content', [
    b'', b'<html>', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'BM', b'P6 1', b'\xff\xd8\xff\xe0'])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / 'um_000007.png'
    path.write_bytes(content)
    refused(path, 'is not a readable image', 'expected a PNG')


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp', '.bmp', '.gif', '.ppm'])
def test_random_damage_is_an_input_error_or_a_picture(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112], exif[0x010e] = 6, 'street'
    path = saved(tmp_path / f'a{suffix}', NOISE, **(
        {'exif': exif} if suffix in ('.png', '.jpg', '.tif', '.webp') else {}))
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            assert read_image(path).ndim == 3
        except InputError as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize('make, reason', [
    (lambda path: None, 'no such file'), (lambda path: path.mkdir(), 'it is a folder'),
    (os.mkfifo, 'it is a pipe'), (lambda path: path.symlink_to('/dev/zero'), 'it is a device'),
    (lambda path: path.symlink_to(path), 'Too many levels')])
def test_what_is_no_file_is_named_and_does_not_hang(tmp_path, make, reason):
    make(tmp_path / 'um_000007.png')
    refused(tmp_path / 'um_000007.png', 'cannot read', reason)


# Resizing -------------------------------------------------------------------------------------

def test_resizing_a_label_invents_no_class():
    """Road beside 'ignored' (255): in between lie 250 classes that do not exist."""
    classes = np.full((40, 64), 255, np.uint8)
    classes[:, 20:] = 1
    classes[11:, 37:] = 0
    photograph = np.zeros((40, 64, 3), np.uint8)
    photograph[:, 20:] = 200
    image, resized = resize_pair(photograph, classes, (13, 21))
    assert image.shape == (13, 21, 3) and resized.shape == (13, 21)
    assert image.dtype == resized.dtype == np.uint8
    assert set(np.unique(resized)) == {0, 1, 255}
    assert len(np.unique(image)) > 2    # whereas the photograph is interpolated
    assert (resized[:, :6] == 255).all() and (resized[:3, 8:] == 1).all()
    assert (resized[5:, 14:] == 0).all()


def test_resize_of_floats():
    resized = resize(np.float32([[0, 0], [1, 1]]), (4, 3))
    assert resized.dtype == np.float32 and resized.shape == (4, 3)
    np.testing.assert_allclose(resized, np.repeat([[0], [0.25], [0.75], [1]], 3, 1))


@pytest.mark.parametrize('size, scale, expected', [
    ((75, 101), 1, (75, 101)), ((192, 640), 1.5, (288, 960)), ((192, 640), 1.3, (256, 856)),
    ((360, 480), 1.25, (448, 600)), ((10, 20), 0.1, (32, 64)), ((300, 2), 0.2, (64, 8))])
def test_scaled_size(size, scale, expected):
    assert scaled_size(size, scale) == expected


@pytest.mark.parametrize('size, expected', [((375, 1242), (193, 640)), ((1, 9000), (1, 640)),
                                            ((400, 100), (2560, 640)), ((500, 100), (2560, 512)),
                                            ((90_000, 3), (2560, 1))])
def test_a_thumbnail_has_at_least_a_row_and_is_never_huge(size, expected):
    assert thumbnail_size(size, 640) == expected


@pytest.mark.parametrize('picture, training, seen', [
    ((375, 1242), (192, 640), (192, 640)), ((376, 1241), (192, 640), (192, 640)),
    ((370, 1224), (192, 640), (192, 640)),                  # all sizes of KITTI
    ((1080, 1920), (192, 640), (264, 464)), ((1920, 1080), (192, 640), (464, 264)),
    ((3024, 4032), (192, 640), (304, 408)), ((90, 120), (192, 640), (304, 408)),
    ((720, 960), (360, 480), (360, 480)), ((47, 155), (47, 155), (47, 155)),
    ((1, 1), (32, 96), (56, 56)), ((1, 9999), (32, 96), (32, 96)), ((9999, 1), (32, 96), (96, 32)),
    ((1, 9999), (192, 640), (32, 3840)), ((10, 90), (16, 16), (32, 32))])
def test_the_area_is_that_of_the_training_and_the_aspect_is_kept(picture, training, seen):
    assert images.seen_size(picture, training) == seen


# Painting -------------------------------------------------------------------------------------

def test_overlay_paints_the_road_only_and_leaves_the_photograph_alone():
    photograph = np.full((2, 3, 3), (100, 50, 30), np.uint8)
    road = np.array([[True, False, False], [False, False, True]])
    painted = paint(photograph, np.uint8(road), [None, (0, 255, 0)], outlined=False)
    assert painted.dtype == np.uint8
    assert (painted[road] == (50, 152, 15)).all()
    assert (painted[~road] == (100, 50, 30)).all()
    assert (photograph == (100, 50, 30)).all()


def test_overlay_has_a_light_line_inside_and_a_dark_one_outside():
    photograph = np.full((9, 12, 3), (40, 90, 20), np.uint8)
    road = np.zeros((9, 12), bool)
    road[3:8, 2:9] = True
    painted = paint(photograph, np.uint8(road), [None, (0, 255, 0)])
    assert (painted[3, 2:9] == 255).all() and (painted[3:8, 8] == 255).all()
    assert (painted[2, 2:9] == 0).all() and (painted[3:8, 9] == 0).all()
    assert (painted[4:7, 3:8] == (20, 172, 10)).all()
    assert (painted[:2] == photograph[:2]).all() and (painted[:, 10:] == (40, 90, 20)).all()


@pytest.mark.parametrize('opacity', [0, 0.3, 0.5, 1])
def test_paint_blends_each_class_with_its_colour(opacity):
    photograph = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    classes = np.arange(77, dtype=np.uint8).reshape(7, 11) % 5
    classes[0, :4] = 255                    # ignored
    palette = [(255, 0, 0), None, (0, 255, 128), (0, 0, 0), np.uint8([255, 255, 255])]
    painted = paint(photograph, classes, palette, opacity, outlined=False)
    for number, colour in enumerate(palette):
        area = classes == number
        expected = photograph[area] if colour is None else (
            photograph[area] * (1 - opacity) + np.float64(colour) * opacity)
        np.testing.assert_allclose(painted[area], expected, atol=1.5)
    assert (painted[0, :4] == photograph[0, :4]).all()


def test_paint_takes_as_many_classes_as_it_says():
    classes = np.uint8([[0, 252, 253, 255]])
    palette = [(number, 0, 1) for number in range(253)]
    painted = paint(np.full((1, 4, 3), 9, np.uint8), classes, palette, 1, outlined=False)
    assert painted.tolist() == [[[0, 0, 1], [252, 0, 1], [9, 9, 9], [9, 9, 9]]]


def test_paint_draws_no_line_between_areas_that_are_both_bare():
    classes = np.zeros((6, 9), np.int64)
    classes[:, 4:] = 255
    photograph = np.full((6, 9, 3), 77, np.uint8)
    assert (paint(photograph, classes, [None, (0, 255, 0)]) == 77).all()


def test_lines_are_wider_on_large_photographs():
    classes = np.zeros((12, 3600), np.uint8)
    classes[:, 1000:] = 1
    painted = paint(np.full((12, 3600, 3), 77, np.uint8), classes, [None, (77, 77, 77)])
    assert (painted[5, 1000:1003] == 255).all() and (painted[5, 997:1000] == 0).all()
    assert (painted[5, :997] == 77).all() and (painted[5, 1003:] == 77).all()


def test_the_lines_of_a_long_strip_stay_narrow():
    """A pixel of width is a pass over the picture: 2 million pixels took 12 s."""
    road = np.zeros((2, 30_000), np.uint8)
    road[:, 15_000:] = 1
    painted = paint(np.full((2, 30_000, 3), 99, np.uint8), road, [None, (0, 255, 0)])
    assert 16 < (painted != painted[:, :1]).any(axis=(0, 2))[:15_100].sum() <= 132


def test_outline_of_a_mask():
    mask = np.zeros((7, 8), bool)
    mask[2:5, 3:7] = True
    inner, outer = outline(mask)
    assert inner.sum() == 10 and (mask & ~inner).sum() == 2
    assert outer.sum() == 14 and not (outer & mask).any() and not outer[1, 2]
    wide, _ = outline(mask, 2)
    assert (wide == mask).all()


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (3, 2)])
def test_outline_of_tiny_pictures(shape):
    for width in (1, 5):
        inner, outer = outline(np.ones(shape, np.uint8), width)
        assert inner.shape == outer.shape == shape and not inner.any() and not outer.any()


# Writing --------------------------------------------------------------------------------------

def test_png_and_jpeg_are_written(tmp_path):
    write_image(tmp_path / 'a.PNG', NOISE)
    np.testing.assert_array_equal(read_image(tmp_path / 'a.PNG'), NOISE)
    smooth = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    for quality in (40, 95):
        write_image(tmp_path / f'{quality}.jpg', smooth, quality=quality)
        np.testing.assert_allclose(read_image(tmp_path / f'{quality}.jpg'), smooth, atol=5)
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    write_image(tmp_path / 'b.png', grey)
    with Image.open(tmp_path / 'b.png') as image:
        np.testing.assert_array_equal(np.asarray(image), grey)
    assert {path.suffix for path in tmp_path.iterdir()} == {'.PNG', '.png', '.jpg'}


@pytest.mark.parametrize('name', ['a', 'a.txt', 'a.png.part'])
def test_an_ending_that_is_no_format_is_an_error(tmp_path, name):
    with pytest.raises(InputError, match=f'{name}: .* use .png or .jpg'):
        write_image(tmp_path / name, NOISE)
    assert not list(tmp_path.iterdir())


def test_an_array_that_the_format_does_not_take_is_an_error(tmp_path):
    with pytest.raises(InputError, match='cannot write .*a.jpg'):
        write_image(tmp_path / 'a.jpg', np.zeros((1, 70_000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_image_is_written_whole_or_not_at_all(tmp_path):
    """In a process whose files may have 1 kB, which strikes like a full disk."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    path = saved(tmp_path / 'a.png', NOISE)
    before = path.read_bytes()
    code = ('import numpy as np\nfrom roadseg.errors import InputError\n'
            'from roadseg.images import write_image\n'
            'noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)\n'
            'try:\n    write_image("a.png", noise)\nexcept InputError as error:\n    print(error)')
    environment = {**os.environ, 'PYTHONPATH': str(Path(images.__file__).parents[1])}
    answer = subprocess.run([sys.executable, '-c', code], env=environment, cwd=tmp_path,
                            preexec_fn=limit, capture_output=True, text=True, check=True).stdout
    assert answer.startswith('cannot write a.png: too large') and answer.count('\n') == 1
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('palette', [None, [(0, 0, 0), (0, 255, 0)], [None, np.uint8([9, 8, 7])]])
def test_a_mask_keeps_its_numbers_whatever_its_colours(tmp_path, palette):
    classes = np.uint8([[0, 1, 255], [1, 17, 1]])
    write_mask(tmp_path / 'a.png', classes, palette)
    with Image.open(tmp_path / 'a.png') as image:
        assert image.mode == ('L' if palette is None else 'P')
        np.testing.assert_array_equal(np.asarray(image), classes)
    shown = read_image(tmp_path / 'a.png')
    expected = (1, 1, 1) if palette is None else tuple(palette[1])
    assert tuple(shown[0, 1]) == expected and tuple(shown[0, 0]) == (0, 0, 0)


def test_masks_of_the_same_content_are_the_same_file(tmp_path):
    classes = np.uint8([[0, 1], [2, 3]])
    for name in 'ab':
        write_mask(tmp_path / f'{name}.png', classes, [(1, 2, 3)] * 4)
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_colours_that_are_multiplied_by_the_opacity(mode):
    """As of a TIFF that says so."""
    image = Image.new(mode, (5, 3), (100, 128) if mode == 'LA' else (100, 100, 100, 128))
    assert abs(np.int32(images.to_rgb(image.convert(mode[:-1] + 'a'))) - 100).max() <= 1
