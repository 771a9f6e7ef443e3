"""Videos: what is written is what is read, whole or not at all, and damage is named."""
import re
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from roadseg import video
from roadseg.errors import InputError
from roadseg.images import write_image
from roadseg.video import Reader, Writer


def write(path, frames, rate=Fraction(25)):
    with Writer(path, frames[0].shape[:2], rate) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def plain(count, shape=(24, 40)):
    """Frames of one colour, which change."""
    return [np.full((*shape, 3), (20 * index, 200, 30), np.uint8) for index in range(count)]


def noise(count, shape=(48, 64)):
    return list(np.random.default_rng(0).integers(0, 256, (count, *shape, 3), np.uint8))


@pytest.mark.parametrize('ending', video.ENDINGS)
@pytest.mark.parametrize('shape', [(24, 40), (33, 31), (1, 1)])
def test_size_frames_and_colours_are_kept(tmp_path, ending, shape):
    path = write(tmp_path / f'a b:[1]*%d\nä{ending}', plain(9, shape))
    with Reader(path) as reader:
        found = list(reader)
        assert (reader.shape, reader.rate, reader.problem) == (shape, 25, None)
        assert len(found) == reader.expected == 9
    for frame, expected in zip(found, plain(9, shape)):
        assert frame.shape == (*shape, 3) and frame.dtype == np.uint8
        assert np.abs(np.int32(frame) - expected).max() <= 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('ending', ['.mp4', '.mov', '.avi'])
@pytest.mark.parametrize('rate', [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(10)])
def test_the_rate_is_kept(tmp_path, ending, rate):
    with Reader(write(tmp_path / f'a{ending}', plain(9), rate)) as reader:
        assert reader.rate == rate


def test_a_rate_that_mpeg4_cannot_have(tmp_path):
    with Reader(write(tmp_path / 'a.avi', plain(30), Fraction(1000000, 33333))) as reader:
        assert float(reader.rate) == pytest.approx(30, abs=0.01)


def test_frames_that_last_unequally_are_shown_as_long_as_before(tmp_path):
    """As phones film: here half a second of 20 frames a second, and a second of 5."""
    colours = plain(15)
    write(tmp_path / 'a.mp4', colours[:10], Fraction(20))
    write(tmp_path / 'b.mp4', colours[10:], Fraction(5))
    (tmp_path / 'list.txt').write_text("file 'a.mp4'\nfile 'b.mp4'\n")
    ffmpeg('-f', 'concat', '-i', tmp_path / 'list.txt', '-fps_mode', 'vfr',
           '-video_track_timescale', 1000, tmp_path / 'c.mp4')
    with Reader(tmp_path / 'c.mp4') as reader:
        found = [int(frame[12, 20, 0]) for frame in reader]
    seconds = len(found) / reader.rate
    assert float(seconds) == pytest.approx(1.5, abs=0.1) and reader.problem is None
    for second, expected in ((0.27, 5), (0.45, 9), (0.6, 10), (1.4, 14)):
        assert found[int(second * reader.rate)] == pytest.approx(int(colours[expected][0, 0, 0]), abs=5)


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-y', *map(str, arguments)],
                   check=True)


def test_a_video_that_was_filmed_upright_is_read_upright(tmp_path):
    path = write(tmp_path / 'a.mp4', plain(3, (24, 40)))
    ffmpeg('-display_rotation', 90, '-i', path, '-c', 'copy', tmp_path / 'b.mp4')
    with Reader(tmp_path / 'b.mp4') as reader:
        assert reader.shape == (40, 24)
        assert next(iter(reader)).shape == (40, 24, 3)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    """As of DVDs, and of cameras that film 1440x1080."""
    path = write(tmp_path / 'a.mp4', plain(3, (108, 144)))
    ffmpeg('-i', path, '-vf', 'setsar=4/3', tmp_path / 'b.mp4')
    with Reader(tmp_path / 'b.mp4') as reader:
        assert reader.shape == (108, 192)
        assert [frame.shape for frame in reader] == [(108, 192, 3)] * 3
    ffmpeg('-i', path, '-vf', 'setsar=10/11', tmp_path / 'c.mp4')
    with Reader(tmp_path / 'c.mp4') as reader:      # 130.9; an odd one has colours few can play
        assert reader.shape == (108, 130)


@pytest.mark.parametrize('lengths, rate', [([3000] * 4, Fraction(1, 3)), ([60_000] * 3,
                                                                          Fraction(1, 60)),
                                           ([10] * 8, 100), ([70] * 8, Fraction(100, 7))])
def test_each_picture_of_a_gif_is_seen_once_however_long_it_lasts(tmp_path, lengths, rate):
    slides = [Image.fromarray(frame) for frame in plain(len(lengths))]
    slides[0].save(tmp_path / 'a.gif', save_all=True, append_images=slides[1:], duration=lengths)
    with Reader(tmp_path / 'a.gif') as reader:
        assert reader.rate == rate and len(list(reader)) == len(lengths)


def test_sound_is_left_out(tmp_path):
    path = write(tmp_path / 'a.mp4', plain(25))
    ffmpeg('-f', 'lavfi', '-i', 'sine=d=1', '-i', path, tmp_path / 'b.mp4')
    with Reader(tmp_path / 'b.mp4') as reader:
        assert len(list(reader)) == 25 and reader.problem is None
    ffmpeg('-f', 'lavfi', '-i', 'sine=d=8', '-i', path, tmp_path / 'long.mp4')
    with Reader(tmp_path / 'long.mp4') as reader:
        assert len(list(reader)) == 25 and reader.problem is None
    ffmpeg('-f', 'lavfi', '-i', 'sine=d=1', tmp_path / 'c.mp4')
    with pytest.raises(InputError, match='c.mp4 is not a readable video'):
        Reader(tmp_path / 'c.mp4')


@pytest.mark.parametrize('program', ['/nowhere/ffmpeg', '/'])
def test_a_program_that_is_none(tmp_path, monkeypatch, program):
    path = write(tmp_path / 'a.mp4', plain(1))
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', program)
    for use in (lambda: Reader(path), lambda: write(tmp_path / 'b.mp4', plain(1))):
        with pytest.raises(InputError, match='IMAGEIO_FFMPEG_EXE names none'):
            use()
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_of_another_kind(tmp_path, monkeypatch):
    path, program = write(tmp_path / 'a.mp4', plain(1)), tmp_path / 'ffmpeg'
    program.write_bytes(b'\x7fELF' + bytes(99))
    program.chmod(0o755)
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(program))
    with pytest.raises(InputError, match='FFmpeg cannot be started: .*IMAGEIO_FFMPEG_EXE may name'):
        Reader(path)


# Damage -----------------------------------------------------------------------------------------

def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    return path


@pytest.mark.parametrize('ending', ['.avi', '.gif', '.mp4'])
def test_a_video_that_breaks_off_gives_what_it_has(tmp_path, ending):
    path = write(tmp_path / f'a{ending}', noise(40))
    if ending == '.mp4':        # one whose index comes first
        ffmpeg('-i', path, '-c', 'copy', '-movflags', '+faststart', tmp_path / 'b.mp4')
        path = tmp_path / 'b.mp4'
    with Reader(cut(path, 0.6)) as reader:
        count = sum(1 for _ in reader)
    assert 10 < count < 30
    assert re.match('it is damaged: .|it ends before its 40 frames', reader.problem)


def test_a_video_with_sound_that_breaks_off(tmp_path):
    path = write(tmp_path / 'a.mp4', noise(40))
    ffmpeg('-f', 'lavfi', '-i', 'sine=d=1.6', '-i', path, '-c:v', 'copy', tmp_path / 'b.mkv')
    (tmp_path / 'b.mkv').rename(tmp_path / 'b.mp4')
    with Reader(cut(tmp_path / 'b.mp4', 0.6)) as reader:
        assert 10 < sum(1 for _ in reader) < 30
    assert re.match('it is damaged: .|it ends before its 40 frames', reader.problem)


def test_a_video_without_its_end_where_its_index_is(tmp_path):
    with pytest.raises(InputError, match='is not a readable video: moov atom not found; expected'):
        Reader(cut(write(tmp_path / 'a.mp4', noise(9)), 0.6))


@pytest.mark.parametrize('content', [b'', b'no video', bytes(5000)])
def test_what_is_no_video(tmp_path, content):
    (tmp_path / 'a.mp4').write_bytes(content)
    with pytest.raises(InputError, match='a.mp4 is not a readable video.*expected a video, .mp4'):
        Reader(tmp_path / 'a.mp4')


def test_a_video_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='cannot read .*a.mp4: no such file'):
        Reader(tmp_path / 'a.mp4')
    with pytest.raises(InputError, match='it is a folder'):
        Reader(tmp_path)


def test_no_frame(tmp_path):
    path = tmp_path / 'a.mp4'
    ffmpeg('-f', 'lavfi', '-i', 'color=s=32x32:d=0', '-frames:v', 0, '-f', 'mp4', path)
    with pytest.raises(InputError, match='a.mp4 is not a readable video'):
        Reader(path)


def test_a_playlist_named_as_a_video_fetches_nothing(tmp_path):
    (tmp_path / 'a.mp4').write_text('ffconcat version 1.0\nfile http://127.0.0.1:9/x.mp4\n')
    with pytest.raises(InputError, match='is not a readable video'):
        Reader(tmp_path / 'a.mp4')


# Writing ----------------------------------------------------------------------------------------

def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / 'a.mp4'
    path.write_bytes(b'before')
    with pytest.raises(KeyboardInterrupt), Writer(path, (24, 40), Fraction(25)) as writer:
        writer.write(plain(1)[0])
        raise KeyboardInterrupt
    assert path.read_bytes() == b'before' and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='cannot write'):
        Writer(tmp_path / 'none' / 'a.mp4', (24, 40), Fraction(25))


def test_what_is_no_file_is_told_before_a_frame_is_seen(tmp_path):
    (tmp_path / 'a.mp4').mkdir()
    with pytest.raises(InputError, match='there is something that is no file'):
        Writer(tmp_path / 'a.mp4', (24, 40), Fraction(25))


def test_sound_alone_and_a_video_too_wide(tmp_path):
    ffmpeg('-f', 'lavfi', '-i', 'sine=duration=1', tmp_path / 'sound.mp4')
    with pytest.raises(InputError, match='it has no frame'):
        Reader(tmp_path / 'sound.mp4')
    with pytest.raises(InputError, match='make the video smaller'):
        write(tmp_path / 'wide.avi', plain(2, (16, 8300)))


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """The encoder is killed by its limit on the size of a file."""
    import resource
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, 'Popen', lambda *arguments, **options: start(
        *arguments, **options, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (20_000, 20_000))))
    with pytest.raises(InputError, match='cannot write .*a.mp4: .*; free some space'):
        write(tmp_path / 'a.mp4', noise(30, (120, 160)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('rows, named, matrix', [
    (720, 'unknown', 'bt709'), (718, 'unknown', 'bt601'), (720, 'smpte170m', 'bt601'),
    (718, 'bt709', 'bt709')])
def test_a_matrix_that_is_not_named_is_that_of_hd_where_it_is(tmp_path, rows, named, matrix):
    """As dashcams write it."""
    colour = np.full((rows, 1280, 3), (200, 40, 40), np.uint8)
    write_image(tmp_path / 'a.png', colour)
    ffmpeg('-loop', 1, '-i', tmp_path / 'a.png', '-frames:v', 2, '-vf',
           f'scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p,'
           f'setparams=colorspace={named}:color_primaries=unknown:color_trc=unknown',
           '-c:v', 'libx264', tmp_path / 'a.mp4')
    with Reader(tmp_path / 'a.mp4') as reader:
        frame = next(iter(reader))
    assert np.abs(np.int32(frame) - colour).max() <= 4
