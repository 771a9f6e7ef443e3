"""Bird's-eye view of KITTI Road images, the view in which the benchmark's server scores.

The view covers 20 m x 40 m of flat ground in front of the camera. In road coordinates, x points
right, y down to the ground (y = 0) and z ahead, all in metres.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from roadseg.errors import InputError
from roadseg.files import check_file

X_RANGE = (-10, 10)  # m, left to right
Z_RANGE = (6, 46)    # m, near to far
CELL = 0.05          # m
BEV_SHAPE = (round((Z_RANGE[1] - Z_RANGE[0]) / CELL),
             round((X_RANGE[1] - X_RANGE[0]) / CELL))  # (800, 400)


class Calibration(NamedTuple):
    """What the view needs of a KITTI Road calibration file; all arrays float64."""
    P2: np.ndarray              # (3, 4), rectified camera coordinates (m) to left colour image
    R0_rect: np.ndarray         # (3, 3), camera coordinates to rectified ones
    Tr_cam_to_road: np.ndarray  # (3, 4), camera coordinates (m) to road coordinates (m)


LIMIT = 1 << 20     # bytes of a calibration, which has some thousand
SHAPES = {'P2': (3, 4), 'R0_rect': (3, 3), 'Tr_cam_to_road': (3, 4)}


def read_calibration(path):
    """Reads a KITTI Road calibration file, lines of `KEY: number number ...`.

    Args:
        path: such as `data_road/training/calib/um_000000.txt`.

    Returns:
        Calibration.

    Raises:
        InputError: the file cannot be read, or one of the three matrices is missing, has a wrong
            number of numbers, something that is no finite number, or cannot be inverted.
    """
    check_file(path, 'KITTI Road has one per photograph, in calib/', LIMIT)
    try:
        text = Path(path).read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise InputError(f"cannot read calibration {path} ({error.strerror}); KITTI Road has one "
                         "per photograph, in calib/") from error
    lines = dict(line.split(':', 1) for line in text.splitlines() if ':' in line)
    return Calibration(**{key: _matrix(path, lines, key, shape) for key, shape in SHAPES.items()})


def bev_homography(calibration):
    """Homography from the ground to the image.

    P2 R0_rect Tr_cam_to_road^-1, the last two extended to 4x4, without the column of y, as y = 0
    on the ground. Source: Fritsch, Kuehnl, Geiger, A New Performance Measure and Evaluation
    Benchmark for Road Detection Algorithms, ITSC 2013.

    Args:
        calibration: Calibration.

    Returns:
        (3, 3) float64, taking (x, z, 1) in metres to (u w, v w, w): column u and row v in pixels,
        counted from 1, and the depth w in metres, negative behind the camera.
    """
    rectify, to_road = np.eye(4), np.eye(4)
    rectify[:3, :3] = calibration.R0_rect
    to_road[:3] = calibration.Tr_cam_to_road
    return (calibration.P2 @ rectify @ np.linalg.inv(to_road))[:, [0, 2, 3]]


def bev_indices(calibration, image_shape):
    """The pixel in which the centre of each cell falls.

    With (u, v) from `bev_homography`, a cell is inside if 1 <= u <= W and 1 <= v <= H, and its
    pixel is image[int(v) - 1, int(u) - 1], without interpolation, as the server samples.

    Args:
        calibration: Calibration.
        image_shape: (H, W) or longer.

    Returns:
        rows, columns: each (800, 400) int64, indices of the image from 0; 0 where not inside. Row
            0 is the farthest, column 0 the leftmost.
        inside: (800, 400) bool, whether the cell is in the image and in front of the camera.
    """
    height, width = image_shape[:2]
    x = X_RANGE[0] + CELL * (np.arange(BEV_SHAPE[1]) + 0.5)
    z = Z_RANGE[1] - CELL * (np.arange(BEV_SHAPE[0]) + 0.5)
    ground = np.stack([*np.meshgrid(x, z), np.ones(BEV_SHAPE)])  # (3, 800, 400)
    u, v, depth = np.tensordot(bev_homography(calibration), ground, axes=1)
    in_front = depth > 0
    depth = np.where(in_front, depth, 1)
    u, v = u / depth, v / depth
    inside = in_front & (u >= 1) & (u <= width) & (v >= 1) & (v <= height)
    rows = np.where(inside, v, 1).astype(np.int64) - 1
    columns = np.where(inside, u, 1).astype(np.int64) - 1
    return rows, columns, inside


def to_bev(image, calibration):
    """An image, confidence map or mask, seen from above.

    Args:
        image: (H, W) or (H, W, ...) array of any dtype, at the full size of its photograph.
        calibration: Calibration of that photograph.

    Returns:
        bev: (800, 400) or (800, 400, ...) array of the same dtype, 0 where not inside. Row 0 is
            the farthest, column 0 the leftmost.
        inside: (800, 400) bool; the other cells are not to be evaluated.
    """
    rows, columns, inside = bev_indices(calibration, image.shape)
    bev = image[rows, columns]
    bev[~inside] = 0
    return bev, inside


def _matrix(path, lines, key, shape):
    """One matrix of a calibration file: `shape` float64, from dict {key: str of numbers}."""
    count = shape[0] * shape[1]
    if key not in lines:
        raise InputError(f"{path}: no line '{key}: ...', expected one with {count} numbers; is it "
                         "a calibration file of KITTI Road?")
    words = lines[key].split()
    if len(words) != count:
        raise InputError(f"{path}: {key} has {len(words)} numbers, expected {count}")
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f"{path}: {key}, expected {count} numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{path}: {key}, expected {count} finite numbers, found "
                         f"{numbers[~np.isfinite(numbers)][0]}")
    matrix = numbers.reshape(shape)
    if np.linalg.matrix_rank(matrix[:, :3]) < 3:
        raise InputError(f"{path}: {key} cannot be inverted; its numbers are no calibration")
    return matrix
