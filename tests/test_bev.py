"""The bird's-eye view, with the calibration of KITTI Road's um_000000."""
import os

import numpy as np
import pytest

from roadseg.errors import InputError
from roadseg.scoring import bev

UM_000000 = """\
P0: 7.215377e+02 0 6.095593e+02 0 0 7.215377e+02 1.728540e+02 0 0 0 1 0
P2: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 \
2.745884e-03
R0_rect: 9.999239e-01 9.837760e-03 -7.445048e-03 -9.869795e-03 9.999421e-01 -4.278459e-03 \
7.402527e-03 4.351614e-03 9.999631e-01
Tr_cam_to_road: 9.999570839814e-01 -5.508724949246e-03 -7.452906591504e-03 9.610489538319e-03 \
5.425697507328e-03 9.999234779341e-01 -1.111504746388e-02 -1.597134401910e+00 \
7.513565886504e-03 1.107413060494e-02 9.999104059534e-01 2.788606298060e-01
"""
HEIGHT, WIDTH = 375, 1242


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / 'um_000000.txt'
    path.write_text(UM_000000)
    return bev.read_calibration(path)


def project(x, z):
    """Pixel (u, v), counted from 1, of the ground point (x, 0, z) in metres, step by step."""
    numbers = {line.split(':')[0]: np.array(line.split(':')[1].split(), float)
               for line in UM_000000.splitlines()}
    camera_to_road = numbers['Tr_cam_to_road'].reshape(3, 4)
    rotation, translation = camera_to_road[:, :3], camera_to_road[:, 3]
    camera = np.linalg.solve(rotation, np.array([x, 0, z]) - translation)
    x_rectified, y_rectified, z_rectified = numbers['R0_rect'].reshape(3, 3) @ camera
    focal, centre_u, shift_u = numbers['P2'][[0, 2, 3]]
    centre_v, shift_v = numbers['P2'][[6, 7]]
    depth = z_rectified + numbers['P2'][11]
    return ((focal * x_rectified + centre_u * z_rectified + shift_u) / depth,
            (focal * y_rectified + centre_v * z_rectified + shift_v) / depth)


def cell(x, z):
    """Row and column of the cell whose centre is (x, z), in metres."""
    return round((46 - z) / 0.05 - 0.5), round((x + 10) / 0.05 - 0.5)


def test_calibration_is_read(calibration):
    assert [matrix.shape for matrix in calibration] == [(3, 4), (3, 3), (3, 4)]
    assert all(matrix.dtype == np.float64 for matrix in calibration)
    assert calibration.P2[0, 3] == 44.85728
    assert calibration.R0_rect[1, 0] == -0.009869795
    assert calibration.Tr_cam_to_road[1, 3] == -1.597134401910


@pytest.mark.parametrize('x, z', [(0, 20), (-10, 46), (10, 46), (-2.5, 6), (3.975, 31.025)])
def test_homography_against_step_by_step_projection(calibration, x, z):
    u, v, depth = bev.bev_homography(calibration) @ [x, z, 1]
    np.testing.assert_allclose((u / depth, v / depth), project(x, z), rtol=1e-12)


def test_point_ahead_is_where_one_expects_it():
    u, v = project(0, 20)
    assert abs(u - WIDTH / 2) < 50
    assert HEIGHT / 2 < v < HEIGHT


@pytest.mark.parametrize('x, z', [(0.025, 20.025), (-9.975, 45.975), (9.975, 45.975),
                                  (-2.475, 10.025), (3.975, 31.025)])
def test_indices_against_step_by_step_projection(calibration, x, z):
    rows, columns, inside = bev.bev_indices(calibration, (HEIGHT, WIDTH))
    assert rows.shape == columns.shape == inside.shape == (800, 400)
    u, v = project(x, z)
    assert inside[cell(x, z)]
    assert rows[cell(x, z)] == int(v) - 1
    assert columns[cell(x, z)] == int(u) - 1


def test_rows_go_far_to_near_and_columns_left_to_right(calibration):
    rows, columns, inside = bev.bev_indices(calibration, (HEIGHT, WIDTH))
    assert inside[:700, 200].all()
    assert (np.diff(rows[:700, 200]) >= 0).all() and rows[699, 200] > rows[0, 200] + 50
    assert inside[0].all()
    assert (np.diff(columns[0]) >= 0).all() and columns[0, 399] > columns[0, 0] + 100


def test_cells_out_of_the_image_are_not_inside(calibration):
    rows, columns, inside = bev.bev_indices(calibration, (HEIGHT, WIDTH))
    for x, z in [(-9.975, 6.025), (9.975, 6.025)]:
        u, v = project(x, z)
        assert not (1 <= u <= WIDTH and 1 <= v <= HEIGHT)
        assert not inside[cell(x, z)]
    assert (rows[~inside] == 0).all() and (columns[~inside] == 0).all()
    assert rows.min() >= 0 and rows.max() < HEIGHT
    assert columns.min() >= 0 and columns.max() < WIDTH
    assert 0.5 < inside.mean() < 1


@pytest.mark.parametrize('u, v, expected', [
    (1, 1, True), (5, 3, True), (4.5, 2.5, True),
    (0.99, 1, False), (1, 0.99, False), (5.01, 3, False), (5, 3.01, False)])
def test_inside_ends_with_the_image(u, v, expected):
    same_pixel_for_all = bev.Calibration(P2=np.array([[0, 0, 0, u], [0, 0, 0, v], [0, 0, 0, 1]]),
                                         R0_rect=np.eye(3), Tr_cam_to_road=np.eye(3, 4))
    rows, columns, inside = bev.bev_indices(same_pixel_for_all, (3, 5))
    assert (inside == expected).all()
    if expected:
        assert (rows == int(v) - 1).all() and (columns == int(u) - 1).all()


def test_ground_behind_the_camera_is_not_inside(calibration):
    turn = np.diag([-1., 1, -1])  # half a turn about the vertical
    behind = calibration._replace(Tr_cam_to_road=turn @ calibration.Tr_cam_to_road)
    assert not bev.bev_indices(behind, (HEIGHT, WIDTH))[2].any()


@pytest.mark.parametrize('dtype, shape', [
    (np.uint8, (HEIGHT, WIDTH)), (bool, (HEIGHT, WIDTH)), (np.float32, (HEIGHT, WIDTH, 3))])
def test_to_bev_keeps_dtype_and_channels(calibration, dtype, shape):
    view, inside = bev.to_bev(np.ones(shape, dtype), calibration)
    assert view.dtype == dtype
    assert view.shape == (800, 400) + shape[2:]
    assert (view[inside] == 1).all()
    assert (view[~inside] == 0).all()
    assert inside.dtype == bool and inside.shape == (800, 400)


def test_to_bev_finds_a_marked_pixel(calibration):
    u, v = project(4.025, 12.025)  # right of the camera
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[int(v) - 1, int(u) - 1] = 200
    view, _ = bev.to_bev(image, calibration)
    assert view[cell(4.025, 12.025)] == 200
    assert view[:, :200].sum() == 0
    assert view[:400].sum() == 0


@pytest.mark.parametrize('old, new, message', [
    ('P2:', 'P9:', "no line 'P2: ...', expected one with 12 numbers"),
    ('Tr_cam_to_road', 'Tr_velo_to_cam', "no line 'Tr_cam_to_road: ...'"),
    (' 2.745884e-03', '', 'P2 has 11 numbers, expected 12'),
    ('9.999631e-01', '9.999631e-01 1 1', 'R0_rect has 11 numbers, expected 9'),
    ('4.485728e+01', 'left', "P2, expected 12 numbers: .*'left'"),
    ('4.485728e+01', 'nan', 'P2, expected 12 finite numbers, found nan'),
    (UM_000000.split('R0_rect:')[1].split('\n')[0], ' 0' * 9, 'R0_rect cannot be inverted'),
])
def test_malformed_calibration(tmp_path, old, new, message):
    assert old in UM_000000
    path = tmp_path / 'um_000007.txt'
    path.write_text(UM_000000.replace(old, new))
    with pytest.raises(InputError, match=f'um_000007.txt: {message}') as error:
        bev.read_calibration(path)
    assert '\n' not in str(error.value)


def test_no_calibration(tmp_path):
    with pytest.raises(InputError, match='cannot read .*um_000007.txt: no such file'):
        bev.read_calibration(tmp_path / 'um_000007.txt')


def test_pipe_instead_of_calibration(tmp_path):
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / 'um_000007.txt')
    with pytest.raises(InputError, match='um_000007.txt: it is a pipe'):
        bev.read_calibration(tmp_path / 'um_000007.txt')


def test_photograph_instead_of_calibration(tmp_path):
    path = tmp_path / 'um_000007.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(range(256)))
    with pytest.raises(InputError, match="um_000007.png: no line 'P2: ...'"):
        bev.read_calibration(path)


def test_a_calibration_far_too_large_is_not_read(tmp_path):
    with (tmp_path / 'um_000000.txt').open('wb') as file:
        file.truncate(2 ** 40)
    with pytest.raises(InputError, match='um_000000.txt has 1.1 TB, expected at most'):
        bev.read_calibration(tmp_path / 'um_000000.txt')
