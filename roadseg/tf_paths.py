"""Paths that TensorFlow does not take literally."""
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path, PurePath

from roadseg.errors import InputError
from roadseg.files import check_file, temporary


def _is_literal(folder):
    """Whether TensorFlow takes a path for what it is."""
    # as_posix: what parts a path on Windows stands for nothing else there
    return not any(character in '[*?\\' or '\ud800' <= character <= '\udfff'
                   for character in PurePath(folder).as_posix())


@contextmanager
def literal(folder):
    """Gives a folder a name that TensorFlow can read a checkpoint or SavedModel in.

    TensorFlow takes the path of what it restores for a pattern, in which `[`, `*`, `?` and a
    backslash stand for something else and cannot be escaped; and it wants UTF-8.

    Args:
        folder: path.

    Yields:
        The path itself; where it has such a character, that of a symbolic link to it, which is
        gone afterwards.

    Raises:
        OSError: the link can't be made.
        InputError: there is no place for it; or the folder holds a pipe or the like, at which
            TensorFlow would wait.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if os.path.exists(path):
                check_file(path, 'move it away')
    if _is_literal(folder):
        yield Path(folder)
        return
    place = Path(temporary(tempfile.mkdtemp, prefix='roadseg-'))
    if not _is_literal(place):              # as the folder for temporary files is named so, too
        place.rmdir()
        raise InputError(f'the names of {folder} and of the temporary folder {place.parent} both '
                         'have characters that TensorFlow reads as a pattern; set TMPDIR to '
                         'another')
    try:
        link = place / 'folder'
        link.symlink_to(os.path.abspath(folder), target_is_directory=True)
        yield link
    finally:
        shutil.rmtree(place, ignore_errors=True)    # the link, not what it points to
