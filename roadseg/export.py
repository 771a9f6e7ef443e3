"""Writes what a run has learnt in forms that need neither its training nor this project.

    python -m roadseg.export RUN --format savedmodel|frozen|onnx
    python -m roadseg.export RUN --format tflite [--quantize float16|dynamic|int8]
    python -m roadseg.export RUN --compare

An export takes photographs, uint8 [N, H, W, 3] RGB, as `photographs`, and gives the probability
of each class, float32 [N, H, W, C], as `probabilities`. It is a folder, RUN/exports/NAME, with the
model and `export.json`: classes, palette, road, size in the training, commit, checksums.

    format      file            size    runs on
    savedmodel  saved_model.pb  any     TensorFlow Serving, tag 'serve'; TensorFlow, OpenVINO
    frozen      frozen.pb       any     TensorFlow, OpenVINO
    onnx        model.onnx      any     ONNX Runtime, OpenVINO
    tflite      model.tflite    fixed   LiteRT, TensorFlow, OpenVINO; one photograph at a time

float16 halves the file; dynamic makes the weights 8 bits; int8 makes everything 8 bits, from the
input to the probabilities, which come as 256 steps, by the ranges that the layers have on
photographs of the training.

An export is compared with the run's own checkpoint, in float32, on the photographs held out, or
those of the training where none were, and is left out where it differs by more than `LIMITS`.
--compare measures all of them.

The ONNX file needs neither TensorFlow nor this project: README.md has an example.
"""
if __name__ == '__main__':      # before the imports, which take seconds
    from roadseg.signals import stop_at_once
    stop_at_once()
import importlib.util
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from roadseg import runtimes
from roadseg.commands import Parser, named_folder, run_command
from roadseg.compare import (LEFT_OUT, LIMITS, NATIVE, check_on, compare, describe, problems_of,
                             spread, table)
from roadseg.errors import InputError
from roadseg.files import (check_free, file_checksum, human_size, move_into_place,
                           part_folder, write_error, write_json, write_whole)
from roadseg.images import read_image, resize
from roadseg.inference import Network, averaged_weights
from roadseg.inference_graph import INPUT, OUTPUT, freeze, inference_graph
from roadseg.machine import free_memory
from roadseg.run_data import open_dataset
from roadseg.tf_errors import as_os_error
from roadseg.training import checkpoints, device
from roadseg.training.options import complete
from roadseg.training.run_folder import (checksum, describe_software, noted_photographs,
                                         read_run)
from roadseg.training.start_from import learned_from

PRECISIONS = {'savedmodel': ('none',), 'frozen': ('none',), 'onnx': ('none',),
              'tflite': ('none', 'float16', 'dynamic', 'int8')}
FILES = {'savedmodel': '.', 'frozen': 'frozen.pb', 'onnx': 'model.onnx', 'tflite': 'model.tflite'}
CALIBRATED = 64
ONNX_OPSET = 17
TIMES_ONNX = 40             # the weights' bytes: measured were 33 to 50, of 6 and 51 MB


# The run --------------------------------------------------------------------------------------

@contextmanager
def _without_tf32():
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextmanager
def checkpoint_network(run, which='last'):
    """Opens a run's checkpoint, averaged weights in place, for as long as it lasts.

    It computes in float32, and not in the TF32 of GPUs, whose error exports would be blamed for.

    Args:
        run: folder.
        which: 'last' or 'best'.

    Yields:
        (path of the checkpoint, `inference.Network`, what `freeze` returns).

    Raises:
        InputError: there is no whole checkpoint, or it is of another model.
    """
    options = complete(read_run(run)['options'], run)
    with _without_tf32(), tf.Graph().as_default(), device.open_session() as sess:
        path = checkpoints.load(sess, run, which)
        frozen = freeze(sess)
        try:
            network = Network.of_session(sess, options['image_size'])
        except KeyError as error:
            raise InputError(f'{path} is of another model: {error.args[0]}') from error
        with averaged_weights(sess):
            yield path, network, frozen


def time_training(run, which):
    """Times the training graph in float32, in a process of its own, see `runtimes.time_runs`."""
    with checkpoint_network(run, which) as (_, network, _):
        runtimes.time_runs(network.run, network.image_shape)


def photographs_of(run, data_dir):
    """Finds the photographs of a run.

    Args:
        run: folder.
        data_dir: where its data set lies; None for where it lay in the training.

    Returns:
        (`Dataset`, (image, label) paths to calibrate on, those to check on): those of the
        training and those held out, or, where none were, the former.

    Raises:
        InputError: they are not there.
    """
    dataset, folder, options = open_dataset(run, data_dir)
    names = noted_photographs(run)
    missing = [name for name in names if not os.path.isfile(Path(folder, name))]
    if missing:
        raise InputError(f'{len(missing)} of {len(names)} photographs are not in {folder}, the '
                         f'first being {missing[0]}; the photographs of {run} are needed to check '
                         'an export on; name the folder they are in now with --data-dir')
    training, held_out = dataset.split(options['split'] or dataset.default_split)
    # By what the run noted, as its split is another one where photographs have come since.
    learned = set(learned_from(run, folder, held_out))
    if learned:
        print(f'warning: {run} was trained on {len(learned)} of the {len(held_out)} photographs '
              'that its split holds out now; they are left out', file=sys.stderr)
        held_out = [pair for pair in held_out if pair[0] not in learned]
    return dataset, training, held_out or training


# Writing --------------------------------------------------------------------------------------

def write_savedmodel(frozen, part, options, calibration):
    """Writes a SavedModel for TensorFlow Serving. Arguments as those of `WRITERS`."""
    with tf.Graph().as_default() as graph, device.open_session() as sess:
        tf.import_graph_def(inference_graph(*frozen), name='')
        infos = [tf.saved_model.build_tensor_info(graph.get_tensor_by_name(name + ':0'))
                 for name in (INPUT, OUTPUT)]
        signature = tf.saved_model.build_signature_def(
            {INPUT: infos[0]}, {OUTPUT: infos[1]}, tf.saved_model.PREDICT_METHOD_NAME)
        builder = tf.saved_model.Builder(str(part / 'new'))
        builder.add_meta_graph_and_variables(sess, [tf.saved_model.SERVING], {
            tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature})
        builder.save()
    for inside in list((part / 'new').iterdir()):
        inside.rename(part / inside.name)
    (part / 'new').rmdir()
    return {}


def write_frozen(frozen, part, options, calibration):
    """Writes a frozen GraphDef. Arguments as those of `WRITERS`."""
    write_whole(part / FILES['frozen'], inference_graph(*frozen).SerializeToString())
    return {}


def check_memory_of_onnx(graph_def):
    """Raises InputError where tf2onnx, which copies a graph over and over, has too little memory.

    Args:
        graph_def: `tf.GraphDef` with its weights.
    """
    needed, free = TIMES_ONNX * graph_def.ByteSize(), free_memory()
    if free is not None and needed > free:
        raise InputError(f'--format onnx takes about {human_size(needed)} of memory for this '
                         f'network, and {human_size(free)} are free; take --format frozen, or a '
                         'larger machine')


def write_onnx(frozen, part, options, calibration):
    """Writes ONNX. Arguments as those of `WRITERS`."""
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError('--format onnx needs tf2onnx and onnxruntime, which are not installed; '
                         '`pip install -r requirements-export.txt`') from error
    graph_def = inference_graph(*frozen)
    check_memory_of_onnx(graph_def)
    os.environ.setdefault('TF2ONNX_CATCH_ERRORS', 'FALSE')      # else a copy for each optimizer
    onnx, _ = tf2onnx.convert.from_graph_def(
        graph_def, input_names=[INPUT + ':0'], output_names=[OUTPUT + ':0'],
        opset=ONNX_OPSET)
    names = {INPUT + ':0': INPUT, OUTPUT + ':0': OUTPUT}
    for value in (*onnx.graph.input, *onnx.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, 'NHW'):
            dimension.dim_param = name
        value.name = names[value.name]
    for node in onnx.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    write_whole(part / FILES['onnx'], onnx.SerializeToString())
    return {}


def write_tflite(frozen, part, options, calibration):
    """Writes TFLite. Arguments as those of `WRITERS`."""
    precision, size = options['quantization'], options['image_size']
    graph_def = inference_graph(*frozen, size, quantized=precision == 'int8')
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name='')
    converter = tf.lite.TFLiteConverter(graph_def, *(
        [graph.get_tensor_by_name(name + ':0')] for name in (INPUT, OUTPUT)))
    if precision != 'none':
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == 'float16':
        converter.target_spec.supported_types = [tf.float16]
    if precision == 'int8':
        converter.representative_dataset = partial(_calibrating, calibration, size)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    with graph.as_default():        # lest it look for the variables of another one
        write_whole(part / FILES['tflite'], converter.convert())
    if precision != 'int8':
        return {}
    # The quantised softmax has steps of 1 / 256 from 0, by TFLite's specification.
    return {'output_scale': 1 / 256, 'calibration': [Path(path).name for path in calibration]}


def _calibrating(paths, size):
    """Yields photographs as the converter wants them: [float32 (1, H, W, 3)], 0-255."""
    for number, path in enumerate(tqdm(paths, 'calibrating', leave=False, disable=None)):
        image = np.array(resize(read_image(path), size), np.float32)
        if number == 0:         # the input's 256 steps are to be grey levels, also of dark ones
            image[0, :2] = [[0], [255]]
        yield [image[np.newaxis]]


# Functions of (what `freeze` returns, folder to write into, dict with 'quantization' and
# 'image_size', paths of photographs to calibrate on); return what export.json says besides.
WRITERS = {'savedmodel': write_savedmodel, 'frozen': write_frozen, 'onnx': write_onnx,
           'tflite': write_tflite}


# Exporting ------------------------------------------------------------------------------------

def name_of(form, precision):
    """Name of the folder of an export: 'tflite-int8', 'onnx'."""
    return form if precision == 'none' else f'{form}-{precision}'


def check_precision(form, precision):
    """Raises InputError where a format has no such precision."""
    if precision not in PRECISIONS[form]:
        able = [name for name, precisions in PRECISIONS.items() if precision in precisions]
        raise InputError(f"--format {form} goes with --quantize {', '.join(PRECISIONS[form])} "
                         f"only; --quantize {precision} is there for --format {', '.join(able)}")


def export(opened, photographs, run, form, precision, out):
    """Writes an export, and checks it.

    Args:
        opened: what `checkpoint_network` yields.
        photographs: what `photographs_of` returns.
        run: folder.
        form: 'savedmodel', 'frozen', 'onnx' or 'tflite'.
        precision: one of its `PRECISIONS`.
        out: folder to be made; it is there only if the export is good.

    Returns:
        (what export.json holds, list of problems: empty where the export is good).

    Raises:
        InputError: `out` is there already or cannot be written, a package is missing, or there is
            too little memory.
    """
    check_precision(form, precision)
    checkpoint, network, frozen = opened
    dataset, training, _ = photographs
    check_free(out)
    if not runtimes.is_installed(NATIVE[form]):
        raise InputError(f'--format {form} is checked on {NATIVE[form]}, which is not installed; '
                         '`pip install -r requirements-export.txt`')
    about = {'format_version': runtimes.FORMAT_VERSION, 'format': form,
             'quantization': precision, 'file': FILES[form], 'fixed_size': form == 'tflite',
             'image_size': list(network.image_shape), 'input': INPUT, 'output': OUTPUT,
             **description_of(run, dataset), 'checkpoint': checkpoint.name,
             'checkpoint_sha256': checksum(checkpoint)}
    try:
        with part_folder(out) as part:
            part.mkdir()
            about.update(WRITERS[form](frozen, part, about,
                                       [image for image, _ in spread(training, CALIBRATED)]))
            written = sorted(path for path in part.rglob('*') if path.is_file())
            about['bytes'] = sum(path.stat().st_size for path in written)
            about['files'] = {path.relative_to(part).as_posix(): file_checksum(path)
                              for path in written}
            write_json(part / runtimes.METADATA, about)
            about['check'] = check_on(part, NATIVE[form], opened, photographs)
            problems = problems_of(about['check'], precision)
            if not problems:
                write_json(part / runtimes.METADATA, about)
                check_free(out)         # another process may have been as fast
                move_into_place(part, out)
    except OSError as error:
        raise write_error(out, error) from error
    except tf.errors.OpError as error:
        reason = as_os_error(error)
        if reason.errno is not None:        # of the disk
            raise write_error(out, reason) from error
        if not isinstance(error, tf.errors.ResourceExhaustedError):
            raise
        raise InputError(f'out of memory while {out} was made or checked; end what else uses the '
                         'device, or set CUDA_VISIBLE_DEVICES=-1 for the CPU') from error
    return about, problems


def description_of(run, dataset):
    """What export.json says of the run."""
    made, software = read_run(run), describe_software()
    return {'dataset': dataset.name, 'title': dataset.title, 'classes': list(dataset.classes),
            'palette': [list(colour) for colour in dataset.palette], 'road': dataset.road,
            'run': Path(run).resolve().name, 'run_id': made.get('id'),
            'model': made['options'].get('model', 'fcn8s'),
            'encoder_sha256': made['model'].get('encoder_sha256'),
            'training_commit': made.get('commit'),
            **{key: software[key] for key in ('commit', 'uncommitted_changes', 'versions')}}


def export_all(run, opened, photographs):
    """Writes all exports that are not there yet, into the folder `exports` of the run.

    Arguments as those of `export`.

    Yields:
        (format, precision, folder, what `export` returns of it).

    Raises:
        InputError: see `export`; an export that is there is of another checkpoint.
    """
    checkpoint, _, frozen = opened
    for form, precisions in PRECISIONS.items():
        if not runtimes.is_installed(NATIVE[form]) or form == 'onnx' and not has('tf2onnx'):
            print(f'warning: {form} is left out, as it needs packages that are not installed; '
                  '`pip install -r requirements-export.txt`', file=sys.stderr)
            continue
        if form == 'onnx' and not os.path.lexists(run / 'exports' / form):
            try:
                check_memory_of_onnx(inference_graph(*frozen))
            except InputError as error:
                print(f'warning: {form} is left out: {error}', file=sys.stderr)
                continue
        for precision in precisions:
            folder = run / 'exports' / name_of(form, precision)
            yield form, precision, folder, existing(folder, checkpoint) or export(
                opened, photographs, run, form, precision, folder)


def has(package):
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def existing(folder, checkpoint):
    """What `export` returned of an export that is there; None where there is none.

    Raises:
        InputError: it is of another checkpoint.
    """
    if not os.path.lexists(folder):
        return None
    _, about = runtimes.read_metadata(folder)
    check = about.get('check')
    whole = isinstance(check, dict) and all(
        type(found) in kinds for kinds, found in (
            ((int,), about.get('bytes')), ((str,), check.get('measure')),
            *(((int, float), check.get(name))
              for name in ('photographs', 'largest_difference', 'agreement')),
            *(((int, float, type(None)), check.get(name, '')) for name in ('before', 'after'))))
    if about.get('checkpoint_sha256') != checksum(checkpoint) or not whole:
        raise InputError(f"{folder} is of the checkpoint {about.get('checkpoint')}, or of another "
                         f'run, and this is {checkpoint.name}; move it away to have it made anew')
    return about, []


# The command ----------------------------------------------------------------------------------

def main(argv=None):
    """The command: exit code 0, or 1 where an export is not good and was left out."""
    parser = Parser(prog='python -m roadseg.export', description=__doc__)
    add = parser.add_argument
    add('run', metavar='RUN', type=named_folder, help='folder runs/<date-time>')
    add('--format', choices=tuple(PRECISIONS), help='what to write')
    add('--quantize', choices=tuple(LIMITS), default='none',
        help='of tflite: float16 halves the file, dynamic makes the weights 8 bits, int8 '
             'everything')
    add('--out', type=named_folder, metavar='DIR',
        help='folder to make (default: RUN/exports/FORMAT-QUANTIZE)')
    add('--compare', action='store_true',
        help='write all of them instead, and measure file, score, time and memory; the table goes '
             'into RUN/compare.md and .json')
    add('--checkpoint', choices=('last', 'best'), default='last', help='of the run')
    add('--data-dir', type=named_folder, metavar='DIR',
        help='holds the data set (default: as in the training)')
    args = parser.parse_args(argv)
    if args.compare == bool(args.format):
        raise InputError('name one of --format and --compare')
    if args.compare and (args.out or args.quantize != 'none'):
        raise InputError('--compare writes all of them, into RUN/exports; leave out '
                         '--out and --quantize')
    if args.format:
        check_precision(args.format, args.quantize)
        out = args.out or args.run / 'exports' / name_of(args.format, args.quantize)
        read_run(args.run)          # before its folder is blamed
        check_free(out)
    photographs = photographs_of(args.run, args.data_dir)
    with checkpoint_network(args.run, args.checkpoint) as opened:
        if args.compare:
            result = compare(args.run, args.checkpoint, opened, photographs,
                             export_all(args.run, opened, photographs))
            write_json(args.run / 'compare.json', result)
            write_whole(args.run / 'compare.md', table(result))
            print(table(result), end='')
            return 1 if any(row['runtime'] == LEFT_OUT for row in result['rows']) else 0
        about, problems = export(opened, photographs, args.run, args.format, args.quantize, out)
    print(describe(about['check']))
    for problem in problems:
        print(f'error: {out} is not good and was left out: {problem}', file=sys.stderr)
    if not problems:
        print(f"wrote {out}, {human_size(about['bytes'])}")
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(run_command(main))
