"""Pairing photographs with labels, and reading class numbers from any kind of PNG."""
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from roadseg.datasets import labels
from roadseg.datasets.description import IGNORED
from roadseg.errors import InputError

NUMBERS = np.array([[0, 1, 2, 255], [3, 3, 0, 1], [2, 0, 1, 3]], np.uint8)
TABLE = labels.table({0: 0, 1: 10, 2: 20, 3: 30, 255: IGNORED})


def png(path, bits, rows, colours=0):
    """A PNG file of 4 columns and 1 row, of a depth that Pillow does not write; grey by default.

    Args:
        colours: PNG's number of a colour type.
    """
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    header = struct.pack('>IIBBBBB', 4, 1, bits, colours, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
                     + chunk(b'IDAT', zlib.compress(b'\0' + rows)) + chunk(b'IEND', b''))
    return path


def with_palette(numbers):
    image = Image.fromarray(numbers)
    image.putpalette(bytes(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8)))
    return image


def colours(numbers):
    return np.stack([numbers] * 3, axis=2)


# Reading ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('image', [
    Image.fromarray(NUMBERS), with_palette(NUMBERS), Image.fromarray(NUMBERS.astype(np.uint16)),
    Image.fromarray(colours(NUMBERS)), Image.fromarray(colours(NUMBERS)).convert('RGBA'),
    Image.fromarray(NUMBERS).convert('LA')],
    ids=['L', 'P', 'I;16', 'grey RGB', 'grey RGBA', 'LA'])
def test_all_kinds_of_numbers_are_read(tmp_path, image):
    image.save(tmp_path / 'mask.png')
    found = labels.read_numbers(tmp_path / 'mask.png')
    assert found.dtype == np.uint8 and (found == NUMBERS).all()
    classes = labels.read_classes(tmp_path / 'mask.png', TABLE, '0 to 3')
    assert classes.dtype == np.uint8 and classes.shape == (3, 4)
    assert (classes == np.where(NUMBERS == 255, 255, 10 * NUMBERS)).all()
    classes[0, 0] = 7       # an augmentation may write into it


@pytest.mark.parametrize('bits, rows, expected', [
    (1, b'\xa0', [255, 0, 255, 0]), (2, b'\x1b', [0, 85, 170, 255]),
    (4, b'\x01\x2f', [0, 17, 34, 255]), (16, b'\x00\x00\x00\x01\x00\x02\x00\xff', [0, 1, 2, 255])])
def test_few_bits_are_shares_of_white_as_png_says(tmp_path, bits, rows, expected):
    found = labels.read_numbers(png(tmp_path / 'mask.png', bits, rows))
    assert found.tolist() == [expected] and found.dtype == np.uint8


def test_16_bit_numbers_above_255_are_refused(tmp_path):
    path = png(tmp_path / 'mask.png', 16, b'\x00\x01\x01\x2c\x00\x02\x00\xff')
    with pytest.raises(InputError, match='mask.png has the value 300 at row 0, column 1'):
        labels.read_numbers(path)


@pytest.mark.parametrize('colours, channels', [(2, 3), (4, 2), (6, 4)])
def test_16_bits_of_several_channels_are_refused(tmp_path, colours, channels):
    """Pillow reads the upper 8 bits of each, so that all classes would become 0."""
    rows = b''.join(struct.pack('>H', number) * channels for number in (0, 1, 2, 255))
    with pytest.raises(InputError, match='mask.png has 16 bits in each of several channels'):
        labels.read_numbers(png(tmp_path / 'mask.png', 16, rows, colours))


def test_a_mask_is_turned_as_its_photograph_is(tmp_path):
    """Programs that make a mask of a photograph may keep the rotation the camera noted."""
    exif = Image.Exif()
    exif[0x0112] = 3        # by 180 degrees
    Image.fromarray(NUMBERS).save(tmp_path / 'mask.png', exif=exif)
    assert (labels.read_numbers(tmp_path / 'mask.png') == NUMBERS[::-1, ::-1]).all()


def test_a_value_outside_the_table_is_placed(tmp_path):
    numbers = NUMBERS.copy()
    numbers[1, 2] = 34
    Image.fromarray(numbers).save(tmp_path / 'mask.png')
    with pytest.raises(InputError) as caught:
        labels.read_classes(tmp_path / 'mask.png', TABLE, '0 to 3')
    assert str(caught.value) == (f'{tmp_path}/mask.png has the value 34 at row 1, column 2; '
                                 'expected 0 to 3')


def test_colours_are_refused_with_the_way_to_convert_them(tmp_path):
    picture = colours(NUMBERS)
    picture[2, 1] = 128, 64, 128
    Image.fromarray(picture).save(tmp_path / 'mask.png')
    with pytest.raises(InputError) as caught:
        labels.read_numbers(tmp_path / 'mask.png')
    message = str(caught.value)
    assert '(128, 64, 128) at row 2, column 1' in message and '\n' not in message
    assert 'numbers[(colours == (128, 64, 128)).all(axis=2)] = 1' in message


@pytest.mark.parametrize('make, message', [
    (lambda path: None, 'No such file|no such file'),
    (lambda path: path.write_bytes(b''), 'is empty'),
    (lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\nrest'), 'not a readable PNG'),
    (lambda path: Image.fromarray(NUMBERS).save(path, 'JPEG'), 'not a readable PNG'),
    (lambda path: path.mkdir(), 'a folder'),
    (lambda path: os.mkfifo(path), 'a pipe'),
    (lambda path: path.symlink_to(path), 'symbolic links')])
def test_what_is_no_label_is_one_line(tmp_path, make, message):
    path = tmp_path / 'mask.png'
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        labels.read_numbers(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_an_animated_label_is_refused(tmp_path):
    frames = [Image.fromarray(NUMBERS), Image.fromarray(NUMBERS[::-1])]
    frames[0].save(tmp_path / 'mask.png', save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match='mask.png cannot be used: it is an animated'):
        labels.read_numbers(tmp_path / 'mask.png')


def test_a_label_of_many_megapixels_is_read_without_a_warning(tmp_path, recwarn):
    rows, columns = 9000, 10_000
    Image.new('1', (columns, rows)).save(tmp_path / 'mask.png')
    assert labels.read_numbers(tmp_path / 'mask.png').shape == (rows, columns)
    assert not recwarn.list


def test_a_cut_off_label_is_refused(tmp_path):
    path = tmp_path / 'mask.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match='not a readable PNG'):
        labels.read_numbers(path)


def test_a_damaged_label_is_never_read_as_other_classes(tmp_path):
    """Pillow decodes it without a look at its checksums."""
    path, values = tmp_path / 'mask.png', np.random.default_rng(0).integers(0, 3, (9, 13), np.uint8)
    Image.fromarray(values).save(path)
    content = path.read_bytes()
    for place in range(8 * content.index(b'IDAT'), 8 * content.index(b'IEND') - 32, 3):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match='mask.png'):
            labels.read_numbers(path)


@pytest.mark.parametrize('ending', ['.heic', '.JFIF', '.gif'])
def test_photographs_of_a_kind_that_is_not_read_are_told(tmp_path, capsys, ending):
    touch(tmp_path / 'test', 'a' + ending, 'b.png')
    assert set(labels.pictures(tmp_path / 'test', labels.PHOTOGRAPHS)) == {'b'}
    assert capsys.readouterr().err == (f'warning: 1 files in {tmp_path}/test are of a kind that '
                                       f'is not read, such as a{ending}; convert them\n')
    labels.pictures(tmp_path / 'test')          # of masks, nothing is said
    assert capsys.readouterr().err == ''


# Finding ----------------------------------------------------------------------------------------

def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b'')
    return folder


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    touch(tmp_path, 'b1.png', 'a10.PNG', 'a2.png', 'a2b.png', 'note.txt', '.hidden.png', 'a.jpg')
    assert list(labels.pictures(tmp_path)) == ['a2', 'a2b', 'a10', 'b1']
    assert labels.pictures(tmp_path, suffix='b') == {'a2': tmp_path / 'a2b.png'}
    assert labels.pictures(tmp_path / 'missing') == {}


def test_odd_names_are_names(tmp_path):
    names = ['[ab]', '*', '?', 'a b', 'straße', '道路', 'a\u202fPM', "it's", '%s{}', '²']
    images = touch(tmp_path / 'im[a]ges', *(name + '.JPG' for name in names))
    masks = touch(tmp_path / 'masks*', *(name + '.png' for name in names))
    pairs = labels.pair(labels.pictures(images, labels.PHOTOGRAPHS), labels.pictures(masks),
                        images, masks)
    assert sorted(image.stem for image, _ in pairs) == sorted(names)
    assert all(image.stem == label.stem for image, label in pairs)


def test_a_letter_in_two_parts_is_the_same_letter(tmp_path):
    touch(tmp_path / 'images', 'u\u0308.png')
    touch(tmp_path / 'masks', '\u00fc.png')
    assert (labels.pictures(tmp_path / 'images').keys()
            == labels.pictures(tmp_path / 'masks').keys())


@pytest.mark.parametrize('name', ['a\nb.png', 'a\x1b[2Jb.png', b'\xff.png', 'a\u2028b.png'])
def test_names_that_break_a_line_are_refused(tmp_path, name):
    open(os.path.join(os.fsencode(tmp_path), os.fsencode(name)), 'wb').close()
    with pytest.raises(InputError, match='rename it') as caught:
        labels.pictures(tmp_path)
    assert str(caught.value).isprintable()


def test_two_endings_of_a_name_are_refused(tmp_path):
    touch(tmp_path, 'a.jpg', 'a.png', 'b.png')
    with pytest.raises(InputError, match='both a.jpg and a.png'):
        labels.pictures(tmp_path, labels.PHOTOGRAPHS)


@pytest.mark.parametrize('images, masks, message', [
    ('abc', 'b', '2 of 3 photographs have no label in .*masks, the first being a.png'),
    ('b', 'abc', '2 of 3 labels have no photograph in .*images, the first being a.png')])
def test_what_does_not_pair_up_is_counted(tmp_path, images, masks, message):
    folders = [touch(tmp_path / name, *(stem + '.png' for stem in stems))
               for name, stems in (('images', images), ('masks', masks))]
    with pytest.raises(InputError, match=message):
        labels.pair(*map(labels.pictures, folders), *folders)


@pytest.mark.parametrize('mode, colour', [('RGBA', (0, 0, 0)), ('LA', (7,))])
def test_shapes_in_the_transparency_are_refused(tmp_path, mode, colour):
    """They would all be of one class."""
    values = np.zeros((4, 6, len(colour) + 1), np.uint8) + np.uint8([*colour, 255])
    Image.fromarray(values, mode).save(tmp_path / 'plain.png')
    assert (labels.read_numbers(tmp_path / 'plain.png') == colour[0]).all()
    values[1, 2, -1] = 0
    Image.fromarray(values, mode).save(tmp_path / 'mask.png')
    with pytest.raises(InputError, match='mask.png has but one colour, and shapes in its transp'):
        labels.read_numbers(tmp_path / 'mask.png')
