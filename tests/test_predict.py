"""The command that looks at pictures and videos: its results, its names, and bad inputs."""
import itertools
import json
import os
import threading
from fractions import Fraction
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import tiny
from roadseg import model, predict, video
from roadseg.errors import InputError
from roadseg.images import write_image

SIZE = (24, 40)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return tiny.save_run(tmp_path_factory.mktemp('runs') / 'run', precision='float32')


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def half_white(shape=SIZE):
    """A picture whose left half is white: road."""
    picture = np.zeros((*shape, 3), np.uint8)
    picture[:, :shape[1] // 2] = 255
    return picture


def save(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, half_white() if picture is None else picture)
    return path


def save_video(path, frames):
    with video.Writer(path, frames[0].shape[:2], Fraction(10)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def call(*arguments):
    return predict.run_command(predict.main, [str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    """The one line of a command that must fail with exit code 2."""
    assert call(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: ')
    return lines[0]


# Pictures ---------------------------------------------------------------------------------------

def test_a_picture_and_all_that_is_made_of_it(run, tmp_path, out, capsys):
    photo = save(tmp_path / 'photo.png')
    assert call(run, photo, '--out', out, '--masks', '--confidence', '--json') == 0
    assert files(out) == ['photo.confidence.png', 'photo.json', 'photo.mask.png', 'photo.png',
                          'predictions.json']
    overlay = read(out / 'photo.png')
    assert overlay.shape == (*SIZE, 3)
    assert overlay[5, 5].tolist() == pytest.approx([127, 255, 127], abs=1)
    assert overlay[5, 35].tolist() == [0, 0, 0]
    with Image.open(out / 'photo.mask.png') as mask:
        assert mask.mode == 'P' and mask.getpalette()[:6] == [255, 0, 0, 0, 255, 0]
        assert (np.array(mask) == half_white()[..., 0] // 255).mean() > 0.97
    confidence = read(out / 'photo.confidence.png')
    assert confidence.dtype == np.uint8 and confidence[5, 5] == 255 and confidence[5, 35] == 0
    content = json.loads((out / 'photo.json').read_text())
    assert content['input'] == str(photo) and (content['height'], content['width']) == SIZE
    assert content['road'] == content['areas']['road'] == pytest.approx(0.5, abs=0.03)
    assert sum(content['areas'].values()) == pytest.approx(1)
    total = json.loads((out / 'predictions.json').read_text())
    assert total['files'] == [content] and total['failed'] == []
    assert total['classes'] == ['not road', 'road']
    assert '1 of 1 files, 1 frames, ' in capsys.readouterr().out


def test_the_class_taken_is_that_of_the_probabilities(run, tmp_path, out):
    picture = np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)
    photo = save(tmp_path / 'photo.png', picture)
    assert call(run, photo, '--out', out, '--masks') == 0
    with model.load(run) as opened:
        probabilities = opened.predict(picture)
    assert np.array_equal(read(out / 'photo.mask.png'), probabilities.argmax(axis=-1))


def test_a_run_is_asked_at_several_sizes(run, tmp_path, out, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (64, 192, 3), np.uint8)
    photo = save(tmp_path / 'photo.png', picture)
    assert call(run, photo, '--out', out, '--confidence', '--test-scale', '1,2', '--flip-test') == 0
    with model.load(run, test_scale=(1, 2), flip_test=True) as opened:
        road = opened.predict(picture)[..., 1]
    assert read(out / 'photo.confidence.png') == pytest.approx(255 * road, abs=1)
    assert call(photo, '--out', tmp_path / 'box', '--test-scale', '1,2') == 2
    assert 'is an export, and sees a picture once' in capsys.readouterr().err


def test_of_three_classes_all_are_painted_and_the_confidence_is_that_of_the_one_taken(
        tmp_path, out):
    run = tiny.save_run(tmp_path / 'run', num_classes=3)
    photo = save(tmp_path / 'photo.png')
    assert call(run, photo, '--out', out, '--masks', '--confidence', '--json') == 0
    legend = read(out / 'legend.png')[..., :3].reshape(-1, 3).tolist()
    for colour in tiny.PALETTE[:3]:
        assert list(colour) in legend
    assert json.loads((out / 'predictions.json').read_text())['palette'] == [
        list(colour) for colour in tiny.PALETTE[:3]]
    assert sorted(np.unique(read(out / 'photo.mask.png'))) == [1, 2]
    assert read(out / 'photo.png')[5, 35].tolist() == pytest.approx([0, 0, 127], abs=1)
    assert read(out / 'photo.confidence.png')[5, [5, 35]].tolist() == [255, 255]


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'YCbCr', 'I;16'])
def test_pictures_of_all_modes(run, tmp_path, out, mode):
    image = Image.fromarray(half_white())
    if mode == 'I;16':
        image = Image.fromarray(half_white()[..., 0].astype(np.uint16) * 257)
    name = 'photo.' + {'CMYK': 'jpg', 'YCbCr': 'jpg'}.get(mode, 'png')
    (image if mode == 'I;16' else image.convert(mode)).save(tmp_path / name)
    assert call(run, tmp_path / name, '--out', out, '--masks') == 0
    overlay, mask = read(out / name), read(out / 'photo.mask.png')
    assert overlay.shape == (*SIZE, 3) and mask[5, 5] == 1 and mask[5, 35] == 0


def test_a_picture_rotated_by_its_exif_comes_out_upright(run, tmp_path, out):
    exif = Image.Exif()
    exif[0x0112] = 6            # to be turned clockwise
    Image.fromarray(half_white()).save(tmp_path / 'photo.jpg', exif=exif)
    assert call(run, tmp_path / 'photo.jpg', '--out', out, '--masks') == 0
    assert read(out / 'photo.jpg').shape == (40, 24, 3)
    assert read(out / 'photo.mask.png')[[5, 35], 12].tolist() == [1, 0]
    with Image.open(out / 'photo.jpg') as overlay:
        assert not overlay.getexif()


@pytest.mark.parametrize('shape', [(1, 1), (31, 33), (1, 700), (700, 1)])
def test_tiny_and_odd_pictures(run, tmp_path, out, shape):
    photo = save(tmp_path / 'photo.png', np.full((*shape, 3), 255, np.uint8))
    assert call(run, photo, '--out', out, '--masks', '--confidence', '--json') == 0
    assert read(out / 'photo.png').shape == (*shape, 3)
    assert (read(out / 'photo.mask.png') == 1).all()


@pytest.mark.parametrize('shape', [
    (1500, 2000), pytest.param((6000, 8000), marks=pytest.mark.slow)])
def test_a_picture_of_a_large_camera(run, tmp_path, out, shape):
    photo = save(tmp_path / 'photo.jpg', half_white(shape))
    assert call(run, photo, '--out', out, '--masks') == 0
    assert read(out / 'photo.jpg').shape == (*shape, 3)
    assert (read(out / 'photo.mask.png') == 1).mean() == pytest.approx(0.5, abs=0.01)


# What is looked at ------------------------------------------------------------------------------

def test_a_folder_is_searched_and_its_paths_are_kept(run, tmp_path, out):
    for name in ('a.png', 'sub/a.png', 'sub/deep/B.JPG', '.hidden.png', '.git/c.png'):
        save(tmp_path / 'photos' / name)
    (tmp_path / 'photos/notes.txt').write_text('no picture')
    save(tmp_path / 'elsewhere/d.png')
    (tmp_path / 'photos/linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'photos/sub/circle').symlink_to(tmp_path / 'photos')
    assert call(run, tmp_path / 'photos', '--out', out) == 0
    assert files(out) == ['a.png', 'linked/d.png', 'sub/a.png', 'sub/deep/B.JPG']


def test_two_of_a_name_from_two_folders(run, tmp_path, out):
    first, second = save(tmp_path / 'a/photo.png'), save(tmp_path / 'b/photo.png')
    assert call(run, first, second, '--out', out) == 0
    assert files(out) == ['a/photo.png', 'b/photo.png']


def test_two_folders(run, tmp_path, out):
    save(tmp_path / 'a/x/photo.png'), save(tmp_path / 'b/x/photo.png')
    assert call(run, tmp_path / 'a', tmp_path / 'b', '--out', out) == 0
    assert files(out) == ['a/x/photo.png', 'b/x/photo.png']


def test_names_that_would_be_one_get_numbers(run, tmp_path, out):
    for name in ('photo.png', 'photo.tif', 'PHOTO.bmp', 'photo.jpg', 'photo.mask.png'):
        save(tmp_path / 'in' / name)
    assert call(run, tmp_path / 'in', '--out', out, '--masks', '--json') == 0
    total = json.loads((out / 'predictions.json').read_text())
    names = [name.lower() for file in total['files'] for name in file['outputs'].values()]
    assert len(names) == len(set(names)) == 15
    assert sorted([*names, 'predictions.json']) == sorted(name.lower() for name in files(out))


def test_a_result_never_has_the_name_of_a_folder_of_results(run, tmp_path, out):
    for name in ('drive.masks/000000.png', 'photo.png/a.png', 'photo.tif'):
        save(tmp_path / 'in' / name)
    save_video(tmp_path / 'in/drive.mp4', sweep(2))
    assert call(run, tmp_path / 'in', '--out', out, '--masks') == 0
    assert files(out) == sorted([
        'drive-2.mp4', 'drive-2.masks/000000.png', 'drive-2.masks/000001.png',
        'drive.masks/000000.png', 'drive.masks/000000.mask.png', 'photo-2.png',
        'photo-2.mask.png', 'photo.png/a.png', 'photo.png/a.mask.png'])


def test_a_file_named_twice_is_looked_at_once(run, tmp_path, out, monkeypatch):
    save(tmp_path / 'photo.png')
    monkeypatch.chdir(tmp_path)
    assert call(run, 'photo.png', tmp_path / 'photo.png', './photo*', '--out', out) == 0
    assert files(out) == ['photo.png']


@pytest.mark.parametrize('name', ['a [1].png', 'a*b?.png', 'zwei  wörter 道.png', 'two\nlines.png',
                                  '-x.png', 'a:b%d.png', 'a\udcff.png'])
def test_odd_names_are_taken_as_they_are(run, tmp_path, out, name):
    save(tmp_path / name)
    save(tmp_path / 'a 1.png')          # which the first one matches, as a pattern
    assert call(run, tmp_path / name, '--out', out, '--json') == 0
    assert files(out) == sorted([name, name[:-4] + '.json', 'predictions.json'])


def test_patterns_are_expanded(run, tmp_path, out):
    for name in ('a1.png', 'a2.png', 'b1.png', 'sub/a3.png', 'a4.txt'):
        save(tmp_path / 'in' / name) if name.endswith('png') else (
            tmp_path / 'in' / name).write_text('no picture')
    assert call(run, tmp_path / 'in/a*', '--out', out) == 0
    assert files(out) == ['a1.png', 'a2.png']
    assert call(run, tmp_path / 'in/**/a*.png', '--out', tmp_path / 'all') == 0
    assert files(tmp_path / 'all') == ['a1.png', 'a2.png', 'sub/a3.png']


@pytest.mark.parametrize('pattern, found', [
    ('**/*.png', ['a.png', 'sub/b.png']), ('*.png', ['a.png']), ('sub/**', ['sub/b.png']),
    ('.hidden/*', ['.hidden/d.png']), ('.hid*/*', ['.hidden/d.png']), ('.c*.png', ['.c.png']),
    ('', []), ('again/*.png', ['again/a.png']), ('a**.png', []),
    ('../in/?.png', ['a.png'])])
def test_a_pattern_follows_no_links_and_finds_nothing_hidden(tmp_path, monkeypatch, pattern, found):
    for name in ('a.png', 'sub/b.png', '.c.png', '.hidden/d.png'):
        save(tmp_path / 'in' / name)
    for name in ('again', 'more'):
        (tmp_path / 'in' / name).symlink_to('.')
    monkeypatch.chdir(tmp_path / 'in')
    try:
        inputs = predict.find_inputs([pattern], tmp_path / 'out')
    except InputError:
        inputs = []
    assert sorted(os.path.relpath(path) for path, _ in inputs) == found


def test_an_input_in_the_place_of_a_result_is_told_as_that(run, tmp_path, capsys, monkeypatch):
    for name in ('photos/a.png', 'other/b.png'):
        save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    error = error_of(capsys, run, 'photos/a.png', 'other/b.png', '--out', '.')
    assert 'the input photos/a.png lies in --out .' in error and 'remove' not in error


# Videos -----------------------------------------------------------------------------------------

def sweep(count, shape=SIZE):
    """Frames in which the road grows from the left."""
    frames = np.zeros((count, *shape, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, :(index + 1) * shape[1] // count] = 255
    return list(frames)


@pytest.mark.parametrize('ending', video.ENDINGS)
def test_a_video_keeps_rate_and_size(run, tmp_path, out, ending):
    clip = save_video(tmp_path / f'clip{ending}', sweep(8, (48, 80)))
    assert call(run, clip, '--out', out) == 0
    with video.Reader(out / f'clip{ending}') as reader:
        frames = list(reader)
        assert (reader.shape, reader.rate, len(frames)) == ((48, 80), 10, 8)
    red, green, blue = frames[5][10, 10].astype(int)
    assert green > 240 and 110 < red < 145 and 110 < blue < 145
    assert files(out) == [f'clip{ending}']


def test_all_that_is_made_of_a_video(run, tmp_path, out, capsys):
    clip = save_video(tmp_path / 'clip.mp4', sweep(8))
    stale = out / 'clip.masks/000008.png'
    save(stale), save(out / 'clip.masks/other.png')
    assert call(run, clip, '--out', out, '--masks', '--confidence', '--json') == 0
    assert not stale.exists() and (out / 'clip.masks/other.png').exists()
    assert len(files(out / 'clip.confidence')) == 8
    content = json.loads((out / 'clip.json').read_text())
    assert (content['frames'], content['frames_per_second']) == (8, 10)
    for index, share in enumerate(content['areas_of_frames']['road']):
        assert share == pytest.approx((index + 1) / 8, abs=0.05)
        assert (read(out / f'clip.masks/{index:06d}.png') == 1).mean() == pytest.approx(
            share, abs=1e-5)
    assert content['road'] == pytest.approx(np.mean(content['areas_of_frames']['road']), abs=1e-4)
    total = json.loads((out / 'predictions.json').read_text())
    assert total['files'][0]['frames'] == 8 and 'areas_of_frames' not in total['files'][0]
    assert '1 of 1 files, 8 frames' in capsys.readouterr().out


def test_probabilities_are_smoothed_over_the_frames(run, tmp_path, out):
    """White, black, black, ...: the road fades as 0.6, 0.36, ..."""
    frames = [np.full((*SIZE, 3), 255, np.uint8)] + [np.zeros((*SIZE, 3), np.uint8)] * 3
    clip = save_video(tmp_path / 'clip.mp4', frames)
    assert call(run, clip, '--out', out, '--confidence', '--temporal', '0.6') == 0
    values = [int(read(path)[9, 9]) for path in sorted((out / 'clip.confidence').iterdir())]
    assert values == pytest.approx([255, 0.6 * 256, 0.36 * 256, 0.216 * 256], abs=1.01)


def test_a_gif_with_one_picture_is_a_picture(run, tmp_path, out):
    Image.fromarray(half_white()).save(tmp_path / 'photo.gif')
    assert call(run, tmp_path / 'photo.gif', '--out', out) == 0
    assert files(out) == ['photo.png']


def test_a_video_that_breaks_off_keeps_what_it_has(run, tmp_path, out, capsys):
    frames = list(np.random.default_rng(0).integers(0, 256, (30, *SIZE, 3), np.uint8))
    clip = save_video(tmp_path / 'clip.avi', frames)
    clip.write_bytes(clip.read_bytes()[:clip.stat().st_size * 6 // 10])
    photo = save(tmp_path / 'photo.png')
    assert call(run, clip, photo, '--out', out, '--json') == 1
    error = capsys.readouterr().err
    count = json.loads((out / 'clip.json').read_text())['frames']
    assert 8 < count < 25 and 'clip.avi: it is damaged: ' in error
    assert f'; the {count} frames that could be read are in {out}/clip.avi' in error
    with video.Reader(out / 'clip.avi') as reader:
        assert len(list(reader)) == count
    assert (out / 'photo.png').exists()


def test_a_decoder_that_ends_before_the_first_frame_is_one_line(run, tmp_path, out, capsys,
                                                               monkeypatch):
    """Such as one that the system kills for its memory, after the file was looked at."""
    clip, photo = save_video(tmp_path / 'clip.mp4', sweep(3)), save(tmp_path / 'photo.png')
    program = tmp_path / 'ffmpeg'
    program.write_text('#!/bin/sh\ncase "$*" in *rawvideo*pipe:1*) kill -9 $$;; esac\n'
                       f'exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(program))
    save(out / 'clip.masks/000000.png')         # of an earlier one
    assert call(run, clip, photo, '--out', out, '--masks') == 1
    error = capsys.readouterr().err
    assert error.count('error: ') == 1 and 'clip.mp4 is not a readable video' in error
    assert files(out) == ['clip.masks/000000.png', 'photo.mask.png', 'photo.png']


def test_a_video_that_is_none_does_not_stop_the_next(run, tmp_path, out, capsys):
    (tmp_path / 'a.mp4').write_bytes(b'nothing of the kind')
    clip = save_video(tmp_path / 'b.mp4', sweep(3))
    assert call(run, tmp_path / 'a.mp4', clip, '--out', out) == 1
    assert 'a.mp4 is not a readable video' in capsys.readouterr().err
    assert files(out) == ['b.mp4']


def test_a_video_that_the_encoder_cannot_take_does_not_stop_the_next(run, tmp_path, out, capsys,
                                                                     monkeypatch):
    wide = save_video(tmp_path / 'a.mp4', sweep(60))
    clip = save_video(tmp_path / 'b.mp4', sweep(3))
    writer = video.Writer

    class TooWide(writer):
        def __init__(self, path, shape, rate):
            super().__init__(path, (2, 20_000), rate)

        def write(self, frame):
            super().write(np.zeros((2, 20_000, 3), np.uint8))

    monkeypatch.setattr(video, 'Writer', lambda path, *more: (
        TooWide if path.name == 'a.mp4' else writer)(path, *more))
    assert call(run, wide, clip, '--out', out) == 1
    assert 'make the video smaller' in capsys.readouterr().err
    assert files(out) == ['b.mp4']


# Bad inputs -------------------------------------------------------------------------------------

def test_one_bad_picture_in_many_is_told_at_the_end(run, tmp_path, out, capsys):
    for index in range(20):
        save(tmp_path / f'in/{index:02d}.png')
    bad = tmp_path / 'in/07.png'
    bad.write_bytes(bad.read_bytes()[:60])
    (tmp_path / 'in/08.png').write_text('no\npicture')
    assert call(run, tmp_path / 'in', '--out', out, '--json') == 1
    printed = capsys.readouterr()
    assert '18 of 20 files' in printed.out
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith('error: ') for line in lines)
    assert '07.png is not a readable image' in lines[0] and '08.png' in lines[1]
    content = json.loads((out / 'predictions.json').read_text())
    assert len(content['files']) == 18 and len(content['failed']) == 2
    assert len(files(out)) == 2 * 18 + 1


def test_a_decompression_bomb_is_refused(run, tmp_path, out, capsys):
    (tmp_path / 'bomb.pgm').write_bytes(b'P5 30000 30000 255\n' + bytes(99))
    (tmp_path / 'bomb.pgm').rename(tmp_path / 'bo\rmb.pgm')        # one line all the same
    assert 'megapixels' in error_of(capsys, run, tmp_path / 'bo\rmb.pgm', '--out', out)


def test_an_unknown_format_that_was_named(run, tmp_path, out, capsys):
    (tmp_path / 'notes.txt').write_text('no picture')
    assert call(run, tmp_path / 'notes.txt', '--out', out) == 2
    printed = capsys.readouterr()
    assert 'notes.txt is not a readable image' in printed.err and not printed.out


def test_a_picture_without_an_ending(run, tmp_path, out):
    save(tmp_path / 'photo.png').rename(tmp_path / 'photo')
    assert call(run, tmp_path / 'photo', '--out', out) == 0
    assert files(out) == ['photo.png']


def test_a_network_that_is_named_wrongly(run, tmp_path, out, capsys):
    """Or all pictures of the runs would be painted, by the network of the package."""
    photo = save(tmp_path / 'photo.png')
    assert f'{run.parent} holds runs' in error_of(capsys, run.parent, photo, '--out', out)
    assert f'{run} is a run' in error_of(capsys, photo, run, '--out', out)
    assert 'named by its folder' in error_of(capsys, run / 'options.json', photo, '--out', out)
    assert f'--out {run} is a run' in error_of(capsys, run, photo, '--out', run)
    assert not out.exists()


def test_names_that_are_too_long(run, tmp_path, out, capsys):
    photo, name = save(tmp_path / 'photo.png'), 'x' * 5000
    assert 'no such file' in error_of(capsys, name, photo, '--out', out)
    assert 'no such file' in error_of(capsys, run, photo, name, '--out', out)
    assert 'too long' in error_of(capsys, run, photo, '--out', tmp_path / name)
    long = save(tmp_path / ('x' * 249 + '.png'))
    assert 'too long for those of its results' in error_of(capsys, run, photo, long, '--out', out,
                                                           '--masks')
    assert not out.exists()


def test_damaged_gifs_are_told_as_pictures_are(run, tmp_path, out, capsys):
    pictures = [Image.fromarray(np.full((*SIZE, 3), 20 * index, np.uint8)) for index in range(5)]
    (tmp_path / 'in').mkdir()
    whole = tmp_path / 'in' / 'whole.gif'
    pictures[0].save(whole, save_all=True, append_images=pictures[1:])
    rng = np.random.default_rng(1)
    for number in range(200):
        content = bytearray(whole.read_bytes())
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(6, len(content))] = rng.integers(256)
        (tmp_path / 'in' / f'{number}.gif').write_bytes(content[:rng.integers(10, len(content))])
    (tmp_path / 'in/bomb.gif').write_bytes(b'GIF89a' + b'\xff' * 40)
    os.mkfifo(tmp_path / 'in/pipe.gif')
    jobs = predict.plan(predict.find_inputs([str(tmp_path / 'in')], out), out, ['overlay'])
    assert {job.source for job in jobs if job.is_video} >= {whole}
    assert call(run, tmp_path / 'in/bomb.gif', tmp_path / 'in/pipe.gif', '--out', out) == 2
    assert [line[:7] for line in capsys.readouterr().err.splitlines()] == ['error: '] * 2


def test_an_input_that_is_not_there(run, tmp_path, out, capsys):
    (tmp_path / 'empty').mkdir()
    assert 'holds no picture' in error_of(capsys, run, tmp_path / 'empty', '--out', out)
    assert 'there is no such file' in error_of(capsys, run, tmp_path / 'none.png', '--out', out)
    assert 'matches no picture' in error_of(capsys, run, tmp_path / '*.png', '--out', out)


def test_results_never_lie_among_or_on_the_inputs(run, tmp_path, out, capsys):
    photo = save(tmp_path / 'in/photo.png')
    before = photo.read_bytes()
    for folder in (tmp_path / 'in', tmp_path / 'in/out', tmp_path / 'in/../in'):
        assert 'lies in the input folder' in error_of(capsys, run, tmp_path / 'in', '--out',
                                                      folder)
    assert 'name another folder' in error_of(capsys, run, photo, '--out', tmp_path / 'in')
    out.mkdir()
    (out / 'photo.png').symlink_to(photo)
    assert 'is an input, or a link to one' in error_of(capsys, run, photo, '--out', out)
    (tmp_path / 'link').symlink_to(tmp_path / 'in')
    assert 'name another folder' in error_of(capsys, run, photo, '--out', tmp_path / 'link')
    assert photo.read_bytes() == before


def test_frames_never_take_the_place_of_inputs(run, tmp_path, out, capsys):
    clip = save_video(tmp_path / 'drive.mp4', sweep(3))
    photos = [save(out / f'drive.masks/{number:06d}.png') for number in range(2)]
    error = error_of(capsys, run, clip, out / 'drive.masks', '--out', out, '--masks')
    assert 'lies in --out' in error
    assert all(path.exists() for path in photos)


def test_photographs_above_the_inputs_are_safe(run, tmp_path, capsys):
    """Results keep their path below the deepest common folder: trip/day/a.png goes to trip/a.png."""
    mine, photo = save(tmp_path / 'trip/a.png'), save(tmp_path / 'trip/day/a.png')
    before = mine.read_bytes()
    for text in (photo, tmp_path / 'trip/day'):
        assert 'lies in --out' in error_of(capsys, run, text, '--out', tmp_path / 'trip')
    assert mine.read_bytes() == before


def test_an_empty_name_is_no_folder(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        call(run, save(tmp_path / 'photo.png'), '--out', '')
    assert leaving.value.code == 2 and "'' names no folder" in capsys.readouterr().err


def test_a_refused_command_makes_no_folder(run, tmp_path, capsys):
    save(tmp_path / 'in/photo.png')
    error_of(capsys, run, tmp_path / 'in', '--out', tmp_path / 'in/seen')
    error_of(capsys, run, tmp_path / 'none.jpg', '--out', tmp_path / 'seen')
    assert files(tmp_path) == ['in/photo.png'] and not (tmp_path / 'seen').exists()
    assert not (tmp_path / 'in/seen').exists()


def test_what_telephones_write_is_told(run, tmp_path, out, capsys):
    save(tmp_path / 'in/photo.png')
    for name in ('IMG_1.HEIC', 'drive.mkv', 'notes.txt'):
        (tmp_path / 'in' / name).touch()
    assert call(run, tmp_path / 'in', '--out', out) == 0
    assert 'warning: 2 files in ' in (said := capsys.readouterr().err) and 'IMG_1.HEIC' in said
    (tmp_path / 'drive.mkv').write_bytes(b'matroska')
    assert '.mp4' in error_of(capsys, run, tmp_path / 'drive.mkv', '--out', out)


@pytest.mark.parametrize('road, expected', [(1, 0), (0, 255), (None, 0)])
def test_confidence_is_that_of_what_is_painted(road, expected):
    certain = np.zeros((2, 3, 2), np.float32)
    certain[..., 0] = 1
    network = SimpleNamespace(classes=('a', 'b'), road=road)
    assert (predict.confidence(certain, (2, 3), network) == expected).all()


@pytest.mark.parametrize('place', ['loop', 'loop/deeper'])
def test_results_into_a_loop_of_links(run, tmp_path, capsys, place):
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    assert 'cannot write' in error_of(capsys, run, save(tmp_path / 'photo.png'), '--out',
                                      tmp_path / place)


def test_results_into_a_file(run, tmp_path, capsys):
    photo = save(tmp_path / 'photo.png')
    error = error_of(capsys, run, photo, '--out', photo)
    assert 'cannot write' in error and 'photo.png' in error


def test_without_a_network(run, tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr(model, 'BOX', tmp_path / 'models')
    photo = save(tmp_path / 'photo.png')
    error = error_of(capsys, photo, '--out', out)
    assert 'photo.png is neither a run' in error and 'no network comes with this package' in error
    assert 'Name a picture' in error_of(capsys, run, '--out', out)
    assert not out.exists()


@pytest.mark.parametrize('fixed_size', [False, True])
def test_an_export_instead_of_a_run(tmp_path, out, fixed_size):
    export = tiny.save_export(tmp_path / 'export', fixed_size=fixed_size)
    photo = save(tmp_path / 'photo.png')
    for source in (export, export / 'frozen.pb'):
        assert call(source, photo, '--out', out, '--masks', '--runtime', 'tensorflow') == 0
        assert (read(out / 'photo.mask.png') == half_white()[..., 0] // 255).mean() > 0.97


def test_the_network_that_comes_with_the_package(tmp_path, out, monkeypatch):
    monkeypatch.setattr(model, 'BOX', tmp_path / 'models')
    tiny.save_export(tmp_path / 'models/small')
    assert call(save(tmp_path / 'photo.png'), '--out', out, '--runtime', 'tensorflow') == 0
    assert files(out) == ['photo.png']


def test_an_export_has_one_checkpoint(tmp_path, out, capsys):
    export = tiny.save_export(tmp_path / 'export')
    photo = save(tmp_path / 'photo.png')
    assert 'has but one checkpoint' in error_of(capsys, export, photo, '--out', out,
                                                '--checkpoint', 'best')


def test_a_damaged_export(tmp_path, out, capsys):
    photo = save(tmp_path / 'photo.png')
    export = tiny.save_export(tmp_path / 'export')
    assert 'onnxruntime does not run' in error_of(capsys, export, photo, '--out', out,
                                                  '--runtime', 'onnxruntime')
    metadata = (export / 'export.json').read_text()
    (export / 'export.json').write_text(metadata.replace('"road": 1', '"road": 2'))
    assert "'road' is 2" in error_of(capsys, export, photo, '--out', out)
    (export / 'export.json').unlink()
    assert 'export.json' in error_of(capsys, export / 'frozen.pb', photo, '--out', out)


@pytest.mark.parametrize('options', [('--temporal', '1'), ('--temporal', '-0.1'),
                                     ('--runtime', 'caffe')])
def test_options_that_are_none(run, out, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as leaving:
        call(run, save(tmp_path / 'photo.png'), '--out', out, *options)
    assert leaving.value.code == 2 and capsys.readouterr().err.startswith('error: ')


def test_results_have_a_folder_unless_one_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / 'photo.png')
    assert call(run, 'photo.png') == 0 and (tmp_path / 'seen/photo.png').exists()
    with pytest.raises(SystemExit):
        call('--help')
    assert capsys.readouterr().out.count('(seen)') == 1


def test_a_result_that_cannot_be_written_ends_it(run, tmp_path, out, capsys):
    photo = save(tmp_path / 'photo.png')
    (out / 'photo.png').mkdir(parents=True)
    assert 'cannot write' in error_of(capsys, run, photo, '--out', out)


@pytest.mark.parametrize('name', ['photo.png', 'clip.mp4'])
def test_ctrl_c_leaves_whole_files_only(run, tmp_path, out, capsys, monkeypatch, name):
    if name == 'clip.mp4':
        save_video(tmp_path / name, sweep(30))
    else:
        for index in range(30):
            save(tmp_path / f'in/{index}.png')
    seen = model.Model.predict
    count = itertools.count()

    def interrupted(*arguments, **options):
        if next(count) == 9:
            raise KeyboardInterrupt
        return seen(*arguments, **options)

    stale = save(out / 'clip.masks/000029.png')         # of an earlier video
    monkeypatch.setattr(model.Model, 'predict', interrupted)
    source = tmp_path / ('clip.mp4' if name == 'clip.mp4' else 'in')
    before = threading.active_count()
    assert call(run, source, '--out', out, '--masks') == 130
    written = [path for path in out.rglob('*') if path.is_file()]
    assert 2 < len(written) < 30 and not (out / 'clip.mp4').exists()
    assert stale.exists() == (name != 'clip.mp4')
    for path in written:
        assert path.suffix == '.png' and read(path).shape[:2] == SIZE
    assert threading.active_count() <= before + 1


def test_frames_that_are_repeated_are_looked_at_once(run, tmp_path, out, monkeypatch):
    """As FFmpeg makes them of a picture that lasts."""
    looks = []
    monkeypatch.setattr(model.Model, 'predict', lambda *args, _seen=model.Model.predict, **options: (
        looks.append(1), _seen(*args, **options))[1])
    still, other = half_white((48, 80)), half_white((48, 80))[:, ::-1]
    clip = save_video(tmp_path / 'clip.gif', [still] * 4 + [other] * 3)
    assert call(run, clip, '--out', out, '--json') == 0
    assert len(looks) == 2
    areas = json.loads((out / 'clip.json').read_text())
    assert areas['frames'] == 7 and areas['road'] == pytest.approx(0.5, abs=0.05)


def test_a_pattern_deeper_than_python_is_told(tmp_path, out, capsys):
    assert 'as a pattern it matches no picture' in error_of(
        capsys, 'a/' * 600 + '*.png', '--out', out)
