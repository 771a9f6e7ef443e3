"""Videos, frame by frame: read and written by FFmpeg, which comes with imageio-ffmpeg.

FFmpeg is started here and not by imageio, whose writer hides its exit status: a video that the
full disk cut short would be taken for whole; and whose reader rounds 24000/1001 frames a second to
23.98 and does not tell a damaged file from its end.
"""
import math
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageSequence

from roadseg.errors import InputError
from roadseg.files import check_file, describe_os_error, part_of, sweep, temporary, write_error
from roadseg.images import DAMAGE, PIXEL_LIMIT

# Codecs by the ending of the file. x264 with 4:2:0 plays everywhere, but has no odd sizes.
_X264 = ('-c:v', 'libx264', '-preset', 'veryfast', '-crf', '18')
_CODECS = {'.mp4': ('-f', 'mp4', *_X264), '.mov': ('-f', 'mov', *_X264),
           '.avi': ('-f', 'avi', '-c:v', 'mpeg4', '-q:v', '2'),
           '.gif': ('-f', 'gif')}
ENDINGS = tuple(_CODECS)
# The colours of a GIF are chosen for each frame: for all together, FFmpeg would hold them all.
_GIF = 'split[a][b];[a]palettegen=stats_mode=single[palette];[b][palette]paletteuse=new=1'
_BT709 = ('-colorspace', 'bt709', '-color_primaries', 'bt709', '-color_trc', 'bt709')
_REMEDY = 'expected a video, ' + ', '.join(ENDINGS)
_HD = 720                   # rows, from which on players take a video that names no matrix for BT.709
_RATE_LIMIT = 1000          # frames a second; beyond, the file's clock was taken for its rate


def _ffmpeg():
    """Path of the program."""
    try:
        program = shutil.which(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        program = None
    if program is None:
        raise InputError('videos need FFmpeg, which imageio-ffmpeg has not brought along here, or '
                         'IMAGEIO_FFMPEG_EXE names none; install it, and name it there')
    return program


class NoFrame(InputError):
    """A video of which no frame could be decoded, though its first one could be before."""


class TooLarge(InputError):
    """Frames of a size that the encoder of an ending does not take."""


class Reader:
    """The frames of a video, without its sound. Use it in a `with` statement.

    Attributes:
        shape: (H, W) in pixels, upright.
        rate: frames per second, a Fraction.
        expected: about how many frames there are; None where the file doesn't say.
        problem: after the last frame, why there were fewer than expected; None if there weren't.
    """

    def __init__(self, path):
        """Finds out what the video is.

        Args:
            path: of the file.

        Raises:
            InputError: it is missing, no video, has no frame or is larger than `PIXEL_LIMIT`.
        """
        self.path, self.problem, self._process = Path(path), None, None
        if check_file(path, _REMEDY) == 0:
            raise InputError(f'{path} is not a readable video: it is empty; {_REMEDY}')
        # The header of this format states size, after rotation, and the exact rate.
        try:
            found = subprocess.run([*self._command('info'), '-frames:v', '1', '-pix_fmt',
                                    'yuv420p', '-f', 'yuv4mpegpipe', 'pipe:1'],
                                   capture_output=True, stdin=subprocess.DEVNULL,
                                   start_new_session=True, check=False)
        except OSError as error:
            raise InputError(f'FFmpeg cannot be started: {describe_os_error(error)}; '
                             'IMAGEIO_FFMPEG_EXE may name another') from error
        header = re.match(rb'YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+).*? A(\d+):(\d+).*\nFRAME',
                          found.stdout)
        log = found.stderr.decode(errors='replace')
        if not header:
            raise InputError(f'{path} is not a readable video: '
                             f'{_reason(log, "it has no frame")}; {_REMEDY}')
        width, height, count, seconds, wide, high = map(int, header.groups())
        scale = []              # of FFmpeg's filter
        if _names_no_matrix(log) and min(width, height) >= _HD:     # FFmpeg would take BT.601
            scale += ['in_color_matrix=bt709']
        if wide and high and wide != high:      # pixels that are not square, as of DVDs
            width = max(2, 2 * round(width * wide / high / 2))      # even, see `Writer`
            scale += [f'w={width}:h={height}']
        self._options = ['-vf', f"scale={':'.join(scale)},setsar=1"] if scale else []
        if width * height > PIXEL_LIMIT:
            raise InputError(f'{path} cannot be used: its {width} x {height} pixels are more '
                             f'than {PIXEL_LIMIT / 1e6:.0f} megapixels; make it smaller')
        self.shape, self.rate = (height, width), Fraction(count, seconds or 1) or Fraction(25)
        if self.path.suffix.lower() == '.gif':      # of which FFmpeg guesses
            self.rate = min(self.rate, _rate_of_gif(path))
            self._options += ['-r', str(self.rate)]
        if self.rate > _RATE_LIMIT:
            raise InputError(f'{path} cannot be used: its rate is {float(self.rate):g} frames a '
                             'second; give it a constant one with `ffmpeg -i IN -r 30 OUT`')
        length = re.search(r'Duration: (\d+:\d\d:\d\d\.\d+)', log)
        self.expected = length and round(self.rate * _seconds(length[1])) or None

    def _command(self, log_level):
        """What decodes the first video stream. An absolute path is never taken for a URL."""
        return [_ffmpeg(), '-hide_banner', '-nostdin', '-v', 'level+' + log_level,
                '-protocol_whitelist', 'file,pipe', '-i', os.path.abspath(self.path),
                '-map', '0:V:0']

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __iter__(self):
        """Yields the frames, uint8 ndarrays (H, W, 3), RGB; then sets `problem`.

        Raises:
            NoFrame: there is none.
        """
        height, width = self.shape
        size, count = height * width * 3, 0
        with temporary(tempfile.TemporaryFile) as log:
            self._process = subprocess.Popen(
                [*self._command('error'), *self._options, '-pix_fmt', 'rgb24', '-f', 'rawvideo',
                 'pipe:1'],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True)     # Ctrl-C is for Python to answer
            with self._process.stdout as frames:
                while len(frame := frames.read(size)) == size:
                    yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
                    count += 1
            status = self._process.wait()
            log.seek(0)
            errors = log.read(1 << 16).decode(errors='replace')
        if errors.strip() or status:
            reason = _reason(errors, f'the decoder ended with {status}')
            self.problem = f'it is damaged: {reason}'
        elif self._is_cut(count) and self._is_cut(self.rate * self._seconds_of_sound()):
            self.problem = f'it ends before its {self.expected} frames'
        if not count:
            raise NoFrame(f'{self.path} is not a readable video: '
                          f'{self.problem or "it has no frame"}; {_REMEDY}')

    def _is_cut(self, frames):
        """Whether so many frames are fewer than the file says, rounding and drift left aside."""
        return self.expected and frames < 0.98 * self.expected - 2

    def _seconds_of_sound(self):
        """How long the sound lasts. It may outlast the frames; in a file that was cut, both end."""
        sound = [*self._command('info')[:-1], '0:a?', '-c', 'copy', '-f', 'null', '-']
        log = subprocess.run(sound, capture_output=True, stdin=subprocess.DEVNULL,
                             start_new_session=True, check=False).stderr.decode(errors='replace')
        ends = re.findall(r'time=(\d+:\d\d:\d\d\.\d+)', log)
        return _seconds(ends[-1]) if ends else 0


class Writer:
    """A video that is there when it is whole. Use it in a `with` statement.

    Frames go into a file beside it, which gets its name when the statement ends without an error,
    and is deleted otherwise.
    """

    def __init__(self, path, shape, rate):
        """Starts the encoder.

        Args:
            path: of the file, ending in one of `ENDINGS`.
            shape: (H, W) of the frames, in pixels.
            rate: frames per second, a Fraction.

        Raises:
            InputError: its folder can't be written to.
        """
        self.path, program = Path(path), _ffmpeg()
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise InputError(f'cannot write {path}: there is something that is no file; move it '
                             'away, or write elsewhere')
        sweep(self.path)
        self._part = part_of(self.path)
        self._log = temporary(tempfile.TemporaryFile)
        height, width = shape
        ending = self.path.suffix.lower()
        odd = height % 2 or width % 2
        if ending == '.gif':
            colours = ['-lavfi', _GIF]
        elif ending == '.avi':          # MPEG-4 names no matrix, and players take BT.601
            colours = ['-pix_fmt', 'yuv420p']
            rate = rate.limit_denominator(65535 // math.ceil(rate))     # its numerator: 16 bits
        else:
            colours = ['-vf', 'scale=out_color_matrix=bt709:out_range=tv', *_BT709,
                       '-pix_fmt', 'yuv444p' if odd else 'yuv420p']
        try:
            self._part.touch()          # the reason, where it can't be, is clearer from Python
        except OSError as error:
            raise write_error(path, error) from error
        self._process = subprocess.Popen(
            [program, '-hide_banner', '-y', '-v', 'level+error',
             '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}', '-r', str(rate),
             '-i', 'pipe:0', *colours, *_CODECS[ending], 'file:' + os.path.abspath(self._part)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log,
            start_new_session=True)

    def __enter__(self):
        return self

    def write(self, frame):
        """Appends a frame, uint8 ndarray (H, W, 3), RGB.

        Raises:
            InputError: the encoder has ended, for instance because the disk is full.
        """
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            raise self._failure() from error

    def __exit__(self, kind, *rest):
        try:
            if kind is None:
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
                if self._process.wait():
                    raise self._failure()
                try:
                    os.replace(self._part, self.path)
                except OSError as error:
                    raise write_error(self.path, error) from error
        finally:
            self._process.kill()
            self._process.wait()
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._log.close()
            with suppress(OSError):
                self._part.unlink()

    def _failure(self):
        """The `InputError` of an encoder that ended before it should."""
        status = self._process.wait()
        self._log.seek(0)
        reason = _reason(self._log.read().decode(errors='replace'),
                         f'the encoder ended with {status}')
        if 'dimension' in reason or 'width x height' in reason:
            return TooLarge(f'cannot write {self.path}: {reason}; make the video smaller, or give '
                            'it another ending')
        return InputError(f'cannot write {self.path}: {reason}; free some space, or write '
                          'elsewhere')


def _rate_of_gif(path):
    """The rate at which all frames of a GIF last whole periods, or a lower one that loses none."""
    try:
        with Image.open(path, formats=['GIF']) as image:
            lengths = [frame.info.get('duration') or 100        # ms
                       for frame in ImageSequence.Iterator(image)]
    except DAMAGE:
        return Fraction(50)
    lengths = list(map(int, lengths))
    return min(Fraction(1000, math.gcd(*lengths)), Fraction(1000, min(20, *lengths)))


def _names_no_matrix(log):
    """Whether FFmpeg's log has a video of a modern codec that does not say how it makes RGB.

    Of older ones, such as MPEG-4 in AVI, players take BT.601 whatever the size.
    """
    found = re.search(r'Video: (?:h264|hevc|vp9|av1)\b.*?, yuv\w+(?:\((.*?)\))?, ', log)
    matrices = [part.split('/')[0] for part in (found[1] or '').split(', ')] if found else []
    return bool(found) and not any(re.match('bt|smpte|fcc|ycgco|gbr', name) for name in matrices)


def _seconds(text):
    """'00:01:02.50' -> 62.5, as a Fraction."""
    return sum(Fraction(part) * unit for part, unit in zip(text.split(':'), (3600, 60, 1)))


def _reason(log, otherwise):
    """The first error of FFmpeg's log, without the part of FFmpeg that it comes from."""
    errors = re.findall(r'^(?:\[.*?\] )*\[(?:error|fatal)\] (.*\S)', log, re.MULTILINE)
    # of a file with sound alone
    return otherwise if not errors or 'matches no streams' in errors[0] else errors[0]
