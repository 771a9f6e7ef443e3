"""What `main.py` leans on: get VGG16 and KITTI, read photographs and labels, batches, overlays.

NumPy, SciPy and Pillow only, so all of it works and is tested without TensorFlow.
"""
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import imageio.v3 as imageio
import numpy as np
from PIL import Image
from scipy.special import softmax
from tqdm import tqdm

KITTI_URL = 'https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip'
VGG_URL = 'https://s3-us-west-1.amazonaws.com/udacity-selfdrivingcar/vgg.zip'
KITTI_COUNTS = {'training photographs': ('training/image_2', '*.png', 289),
                'road labels': ('training/gt_image_2', '*_road_*.png', 289),
                'test photographs': ('testing/image_2', '*.png', 290)}
VAL3 = {'um': range(79, 95), 'umm': range(80, 96), 'uu': range(82, 98)}   # KittiSeg's split
SEARCH = {'um': range(63, 79), 'umm': range(64, 80), 'uu': range(66, 82)}   # the 48 before those
IGNORED = 255                   # the class number of pixels that are not evaluated


class InputError(Exception):
    """Something the user can put right; commands show it as one line and exit with code 2."""


# Getting the data -----------------------------------------------------------------------------

def download(url, path):
    """Downloads a file, going on from `path.part` where an earlier try stopped.

    Args:
        url: where it is.
        path: where it shall be; it appears there when it is whole.

    Raises:
        InputError: the network or the server says no, or the transfer broke off.
    """
    path = Path(path)
    part = path.with_name(path.name + '.part')
    path.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={done}-'} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            if response.status != 206:              # the server sends it from the start
                done = 0
            length = response.headers.get('Content-Length')
            total = done + int(length) if length else None
            with part.open('ab' if done else 'wb') as file, \
                    tqdm(total=total, initial=done, unit='B', unit_scale=True,
                         desc=path.name, disable=None) as bar:
                while block := response.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:              # what lies there is longer than the file
            part.unlink()
            return download(url, path)
        raise InputError(f'could not download {url}: {error}') from error
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f'could not download {url}: {getattr(error, "reason", error)}') from error
    if total is not None and part.stat().st_size != total:
        raise InputError(f'the download of {url} broke off after {part.stat().st_size} of {total} '
                         'bytes; the same command goes on from there')
    part.rename(path)


def extract(archive, top):
    """Unpacks the folder `top` of a zip archive beside the archive, all of it or nothing.

    Raises:
        InputError: the archive is truncated, is no zip, holds no `top`, or has a member that
            would be written outside.
    """
    archive = Path(archive)
    part = archive.with_name(top + '.part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as members:
            paths = [PurePosixPath(name.replace('\\', '/')) for name in members.namelist()]
            outside = [path for path in paths if path.is_absolute() or '..' in path.parts]
            if outside:
                raise InputError(f'{archive} holds {outside[0]}, which would be written outside '
                                 'its folder; nothing was unpacked')
            if not any(path.parts[:1] == (top,) for path in paths):
                raise InputError(f'{archive} holds no folder {top}/; is it another archive?')
            for member in tqdm(members.namelist(), desc=f'unpacking {archive.name}', unit='file',
                               disable=None):
                members.extract(member, part)
        (part / top).rename(archive.with_name(top))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        # RuntimeError: a password, or a kind of compression that zipfile does not know
        raise InputError(f'{archive} could not be unpacked: {error}; if it is damaged, delete it '
                         'and run again') from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def maybe_download_pretrained_vgg(data_dir):
    """Leaves the frozen FCN-VGG16 graph in `data_dir/vgg`, from the first source that works.

    What is already there; the course's archive; Keras Applications' ImageNet VGG16 with its
    top, which Keras itself downloads.

    Returns:
        Path of the folder.

    Raises:
        InputError: no source worked.
    """
    data_dir = Path(data_dir)
    folder, archive = data_dir / 'vgg', data_dir / 'vgg.zip'
    if folder.exists():
        return folder
    if archive.exists():
        extract(archive, 'vgg')
        return folder
    try:
        download(VGG_URL, archive)
        extract(archive, 'vgg')
        return folder
    except InputError as error:
        print(f'{error}\ntrying the VGG16 weights of Keras Applications', file=sys.stderr)
        first = error
    from roadseg import vgg16       # here, as only this source needs TensorFlow
    try:
        vgg16.save(vgg16.read_keras('imagenet'), vgg16.caffe_input, folder)
    except InputError as error:
        raise InputError(
            f'no VGG16: {first}; {error}. Three ways on: put the course\'s vgg.zip into '
            f'{data_dir}; build {folder} from a weight file with `python -m roadseg.vgg16`; '
            'or run `python main.py --demo`, which needs no download') from error
    return folder


def maybe_download_kitti(data_dir, strict=True):
    """Leaves KITTI Road in `data_dir/data_road` and checks that it is whole.

    Args:
        data_dir: folder holding or getting `data_road/` or `data_road.zip`.
        strict: whether fewer files than KITTI has are an error; otherwise a warning is
            printed, for data of one's own.

    Returns:
        Path of `data_road`.

    Raises:
        InputError: there are no data and none could be fetched, or files are missing.
    """
    data_dir = Path(data_dir)
    folder, archive = data_dir / 'data_road', data_dir / 'data_road.zip'
    if not folder.exists():
        if not archive.exists():
            try:
                download(KITTI_URL, archive)
            except InputError as error:
                raise InputError(
                    f'no KITTI Road data in {data_dir}: {error}. Three ways on: download '
                    f'data_road.zip by hand into {data_dir}; name the folder that holds '
                    'data_road/ with --data-dir; or run `python main.py --demo`') from error
        extract(archive, 'data_road')
    for what, (place, pattern, expected) in KITTI_COUNTS.items():
        found = len(list((folder / place).glob(pattern)))
        message = f'{folder / place} holds {found} {what}, KITTI Road has {expected}'
        if found == 0 or (found != expected and strict):
            raise InputError(f'{message}; unpack data_road.zip again, or name a folder of your '
                             'own with --data-dir')
        if found != expected:
            print(f'warning: {message}', file=sys.stderr)
    return folder


# Photographs and labels -----------------------------------------------------------------------

def paired_paths(folder):
    """Pairs each KITTI photograph with its road label.

    The label of `um_000012.png` is `um_road_000012.png`; lane labels are left out.

    Args:
        folder: `data_road/training`, holding `image_2/` and `gt_image_2/`.

    Returns:
        List of (image, label) paths, sorted by image name.

    Raises:
        InputError: there is no photograph, or one has no road label.
    """
    folder = Path(folder)
    images = sorted((folder / 'image_2').glob('*.png'))
    if not images:
        raise InputError(f"no .png file in {folder / 'image_2'}; see 'Data' in README.md")
    labels = {path.name.replace('_road_', '_'): path
              for path in (folder / 'gt_image_2').glob('*_road_*.png')}
    unlabelled = [image.name for image in images if image.name not in labels]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(images)} photographs have no road label in "
            f"{folder / 'gt_image_2'}, the first being {unlabelled[0]}")
    return [(image, labels[image.name]) for image in images]


def category(name):
    """KITTI Road's category of a file: 'um', 'umm' or 'uu'.

    Args:
        name: file name or path, such as `um_000012.png` or `umm_road_000012.png`.

    Raises:
        InputError: the name does not start with a category.
    """
    prefix = Path(name).name.split('_')[0]
    if prefix not in VAL3:
        raise InputError(f"{name} belongs to no category of KITTI Road: its name should start "
                         f"with one of {', '.join(c + '_' for c in VAL3)}")
    return prefix


def split_pairs(pairs, split):
    """Splits (image, label) paths into those to train on and those held out.

    Neighbouring KITTI frames show the same street, so every split holds out contiguous runs
    of frames within each category.

    Args:
        pairs: list of (image, label) paths, sorted.
        split: 'val3', the published split of KittiSeg (Teichmann et al., "MultiNet", 2018);
            'search', the frames just before those, to choose options by: val3 is not trained on
            either, so that it can still tell how good the choice was;
            'kfold:K:I', the I-th of K folds, I from 0; or 'none', which holds nothing out.

    Returns:
        (training pairs, validation pairs).

    Raises:
        InputError: another split, or one that leaves nothing to train on or to validate.
    """
    kind, *numbers = split.split(':')
    if split == 'none':
        return list(pairs), []
    unused = []
    if split == 'val3':
        validation = numbered(pairs, VAL3)
    elif split == 'search':
        validation, unused = numbered(pairs, SEARCH), numbered(pairs, VAL3)
    elif (kind == 'kfold' and len(numbers) == 2 and all(n.isdigit() for n in numbers)
          and int(numbers[1]) < int(numbers[0])):
        folds, fold = map(int, numbers)
        groups = {}
        for pair in pairs:
            groups.setdefault(category(pair[0]), []).append(pair)
        validation = [pair for group in groups.values() for index, pair in enumerate(group)
                      if index * folds // len(group) == fold]
    else:
        raise InputError(f"split '{split}' is none of val3, search, kfold:K:I (I from 0 to K-1), "
                         'none')
    left_out = {*validation, *unused}
    training = [pair for pair in pairs if pair not in left_out]
    if not training or not validation:
        raise InputError(f"split '{split}' leaves {len(training)} of {len(pairs)} photographs "
                         f'to train on and {len(validation)} to validate; choose another --split')
    return training, validation


def numbered(pairs, numbers):
    """Returns the pairs whose number is in the range of their category.

    Args:
        pairs: list of (image, label) paths.
        numbers: dict from category to range, such as `VAL3`.

    Raises:
        InputError: an image has no category or no number.
    """
    chosen = []
    for image, label in pairs:
        number = image.stem.split('_')[-1]
        if not number.isdecimal():
            raise InputError(f'{image} has no number, such as {category(image)}_000012.png, that '
                             'would tell whether it is held out; choose another --split')
        if int(number) in numbers[category(image)]:
            chosen.append((image, label))
    return chosen


def read_image(path):
    """Reads a photograph.

    Returns:
        uint8 ndarray (H, W, 3), RGB.

    Raises:
        InputError: the file is missing or no readable image.
    """
    try:
        return imageio.imread(path, plugin='pillow', mode='RGB')
    except (OSError, SyntaxError, ValueError) as error:     # Pillow raises all three
        raise InputError(f'{path} is not a readable image: {error}') from error


def check_image(path):
    """Raises InputError unless a file is an image whose structure is whole; fast."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'{path} is not a readable image: {error}') from error


def read_road_label(path):
    """Reads a KITTI road label: evaluated where red > 0, road where blue > 0.

    Returns:
        uint8 ndarray (H, W): 1 road, 0 not road, `IGNORED` not evaluated.

    Raises:
        InputError: unreadable, or a colour that KITTI's road labels do not have.
    """
    colours = read_image(path)
    red, green, blue = (colours[..., channel] for channel in range(3))
    foreign = (green > 0) | ((red > 0) & (red < 255)) | ((blue > 0) & (blue < 255))
    if foreign.any():
        row, column = np.argwhere(foreign)[0]
        raise InputError(
            f'{path} has the colour {tuple(map(int, colours[row, column]))} at row {row}, column '
            f'{column}; a KITTI road label has (255, 0, 0), (255, 0, 255), (0, 0, 255), (0, 0, 0)')
    return np.where(red > 0, (blue > 0).astype(np.uint8), np.uint8(IGNORED))


def read_pair(pair, read_label=read_road_label):
    """Reads a photograph and its label.

    Args:
        pair: (image, label) paths.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.

    Returns:
        (photograph uint8 (H, W, 3), classes uint8 (H, W)).

    Raises:
        InputError: one is unreadable, or their sizes differ.
    """
    image, classes = read_image(pair[0]), read_label(pair[1])
    if image.shape[:2] != classes.shape:
        raise InputError('photograph {} has {}x{} pixels and its label {} has {}x{}'.format(
            pair[0], *image.shape[:2], pair[1], *classes.shape))
    return image, classes


def resize(array, image_shape, resample=Image.Resampling.BILINEAR):
    """Resizes a uint8 (H, W[, 3]) or float32 (H, W) array to `image_shape` (H, W)."""
    height, width = image_shape
    return np.asarray(Image.fromarray(array).resize((width, height), resample))


def resize_pair(image, classes, image_shape):
    """Resizes a photograph bilinearly, its label to the nearest: a mixed colour is no class.

    Args:
        image: uint8 ndarray (h, w, 3).
        classes: uint8 ndarray (h, w).
        image_shape: (H, W).

    Returns:
        Such a pair of the size (H, W).
    """
    return resize(image, image_shape), resize(classes, image_shape, Image.Resampling.NEAREST)


# Batches --------------------------------------------------------------------------------------

def random_flip(rng, image, classes):
    """Mirrors photograph and label left to right, every second time on average."""
    if rng.random() < 0.5:
        return image[:, ::-1], classes[:, ::-1]
    return image, classes


def gen_batch_function(data_folder, image_shape, *, pairs=None, num_classes=2,
                       read_label=read_road_label, augment=random_flip, seed=0, first_epoch=0):
    """Makes a function that yields the shuffled batches of one epoch.

    Photographs are decoded once, here, and kept as uint8 at their own size, so that an
    augmentation which zooms finds all their detail. Batches are prepared in a thread, a few
    ahead of the training step.

    Args:
        data_folder: `data_road/training`.
        image_shape: (H, W) of the batches.
        pairs: list of (image, label) paths; by default all of `data_folder`.
        num_classes: C.
        read_label: function from a path to a uint8 ndarray (H, W) of class numbers.
        augment: function of (rng, image uint8 (h, w, 3), classes uint8 (h, w)) that returns
            such a pair of any size, resized to (H, W) then; classes may be `IGNORED`. None
            changes nothing.
        seed: order and augmentation of an epoch depend on this and the epoch's number alone.
        first_epoch: number of the epoch that the first call yields.

    Returns:
        `get_batches_fn(batch_size)`, a generator of (images uint8 [N, H, W, 3], labels bool
        one-hot [N, H, W, C]); a label row of an ignored pixel is all False. The last batch of
        an epoch is short where batch_size does not divide the number of photographs.

    Raises:
        InputError: no, unpaired or unreadable files; from `get_batches_fn`, a batch size that
            is not between 1 and the number of photographs.
    """
    pairs = paired_paths(data_folder) if pairs is None else pairs
    with ThreadPoolExecutor() as pool:          # Pillow lets go of the interpreter's lock
        read = pool.map(lambda pair: read_pair(pair, read_label), pairs)
        samples = list(tqdm(read, 'reading photographs', len(pairs), leave=False,
                            disable=None))
    epochs_begun = first_epoch

    def batch(indices, rng):
        chosen = [samples[index] for index in indices]
        if augment is not None:
            chosen = [augment(rng, *sample) for sample in chosen]
        chosen = [sample if sample[1].shape == tuple(image_shape)
                  else resize_pair(*sample, image_shape) for sample in chosen]
        images, classes = (np.stack(arrays) for arrays in zip(*chosen))
        return images, classes[..., np.newaxis] == np.arange(num_classes, dtype=np.uint8)

    def get_batches_fn(batch_size):
        nonlocal epochs_begun
        if not 1 <= batch_size <= len(samples):
            raise InputError(f'batch size {batch_size} is not between 1 and the '
                             f'{len(samples)} photographs to train on')
        rng = np.random.default_rng([seed, epochs_begun])
        epochs_begun += 1
        order = rng.permutation(len(samples))
        return prepared_ahead(lambda start: batch(order[start:start + batch_size], rng),
                              range(0, len(samples), batch_size))

    return get_batches_fn


def prepared_ahead(make, arguments, ahead=4):
    """Yields `make(argument)` in order, computed in a thread up to `ahead` items early."""
    with ThreadPoolExecutor(1) as thread:
        pending = deque()
        for argument in arguments:
            pending.append(thread.submit(make, argument))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# Prediction and overlays ----------------------------------------------------------------------

def scaled_size(image_shape, scale):
    """The size (H, W) times `scale`, to multiples of 8; as it is where `scale` is 1."""
    if scale == 1:
        return tuple(image_shape)
    return tuple(max(8, round(side * scale / 8) * 8) for side in image_shape)


def road_probability(sess, logits, keep_prob, input_image, photograph, image_shape, *,
                     scales=(1,), flip=False):
    """Probability of road in a photograph, at the photograph's own size.

    Args:
        sess: session of the network's graph; no operation is added to it.
        logits: tensor [pixels, 2] or [1, H, W, 2].
        keep_prob: placeholder of the dropout's keep probability, fed with 1.
        input_image: placeholder [N, H, W, 3], RGB, 0-255.
        photograph: uint8 ndarray (h, w, 3), RGB.
        image_shape: (H, W) at which the network sees it.
        scales: factors of that size; the predictions at all of them are averaged.
        flip: whether to average with the predictions for the mirrored photograph.

    Returns:
        float32 ndarray (h, w), 0-1.
    """
    def road(view):
        scores = sess.run(logits, {input_image: view[np.newaxis], keep_prob: 1.0})
        return np.float32(softmax(scores.reshape(*view.shape[:2], -1), axis=-1)[..., 1])

    predictions = []
    for scale in scales:
        image = resize(photograph, scaled_size(image_shape, scale))
        prediction = road(image)
        if flip:
            prediction = (prediction + road(image[:, ::-1])[:, ::-1]) / 2
        predictions.append(resize(prediction, photograph.shape[:2]))
    return np.mean(predictions, axis=0)


def overlay(photograph, road, colour=(0, 255, 0), opacity=0.5):
    """Paints the road on a photograph in translucent green.

    Args:
        photograph: uint8 ndarray (H, W, 3), RGB.
        road: bool ndarray (H, W).

    Returns:
        uint8 ndarray (H, W, 3).
    """
    painted = photograph.copy()
    painted[road] = (photograph[road] * (1 - opacity) + np.float32(colour) * opacity).round()
    return painted


def new_run_folder(runs_dir):
    """Makes `runs_dir/<date-time>`, and a name of its own where two runs start in a second."""
    name = time.strftime('%Y-%m-%d_%H-%M-%S')
    for suffix in ['', *(f'-{number}' for number in range(2, 100))]:
        folder = Path(runs_dir) / (name + suffix)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f'could not make {folder}: {error.strerror}') from error
    raise InputError(f'{folder} and 98 like it are there already')


def save_inference_samples(runs_dir, data_dir, sess, image_shape, logits, keep_prob, input_image,
                           *, output_dir=None, scales=(1,), flip=False):
    """Writes each test photograph, road in translucent green, at its original size.

    Args:
        runs_dir: a new folder `<date-time>` is made in it.
        data_dir: holds `data_road/testing/image_2`.
        sess, logits, keep_prob, input_image, image_shape, scales, flip: see
            `road_probability`.
        output_dir: where to write instead of `runs_dir/<date-time>`.

    Returns:
        Path of the folder.

    Raises:
        InputError: there is no test photograph, or one is unreadable.
    """
    photographs = sorted((Path(data_dir) / 'data_road/testing/image_2').glob('*.png'))
    if not photographs:
        raise InputError(f"no .png file in {Path(data_dir) / 'data_road/testing/image_2'}")
    folder = Path(output_dir or new_run_folder(runs_dir))
    folder.mkdir(parents=True, exist_ok=True)
    for path in tqdm(photographs, desc='overlays', unit='image', disable=None):
        photograph = read_image(path)
        road = road_probability(sess, logits, keep_prob, input_image, photograph, image_shape,
                                scales=scales, flip=flip) >= 0.5
        write_image(folder / path.name, overlay(photograph, road))
    return folder


def write_image(path, array):
    """Writes a uint8 array as the image file `path`, whole or not at all."""
    path = Path(path)
    part = path.with_name('.part-' + path.name)
    imageio.imwrite(part, array, plugin='pillow')
    part.replace(path)
