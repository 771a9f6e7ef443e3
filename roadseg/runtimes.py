"""What an export of `roadseg.export` runs on. None of the runtimes is imported before it is used.

    tensorflow      SavedModel and frozen graph
    tflite          TFLite; LiteRT where it is installed, else the interpreter within TensorFlow
    onnxruntime     ONNX
    openvino        all of them, as OpenVINO reads them as they are
"""
import importlib.util
import os
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from roadseg.driver import sees_gpu
from roadseg.errors import InputError
from roadseg.files import check_file, describe_os_error, file_checksum, read_json
from roadseg.machine import processors
from roadseg.tf_errors import naming_lack_of_memory

FORMAT_VERSION = 1          # of export.json
METADATA = 'export.json'
# In the order of their speed by `python -m roadseg.export RUN --compare` on a processor of AVX2.
RUNTIMES = {'savedmodel': ('openvino', 'tensorflow'), 'frozen': ('openvino', 'tensorflow'),
            'tflite': ('openvino', 'tflite'), 'onnx': ('openvino', 'onnxruntime')}
MODULES = {'tensorflow': ('tensorflow',), 'tflite': ('ai_edge_litert', 'tensorflow'),
           'onnxruntime': ('onnxruntime',), 'openvino': ('openvino',)}


# What there is --------------------------------------------------------------------------------

def is_installed(runtime):
    """Whether a runtime is here, without importing it."""
    return any(importlib.util.find_spec(module) for module in MODULES[runtime])


def choose(runtime, form, path, quantization='none'):
    """Picks what an export will run on.

    Args:
        runtime: 'auto' for the fastest that is installed and right, or its name.
        form: format of the export.
        path: of the export, for messages.
        quantization: of the export.

    Returns:
        Name of the runtime.

    Raises:
        InputError: it does not run this format, or is not installed.
    """
    able = RUNTIMES[form]
    if runtime != 'auto' and runtime not in able:
        raise InputError(f'{path} is in the format {form}, which {runtime} does not run; take '
                         f"--runtime auto or {' or '.join(able)}")
    if quantization == 'int8':
        # On processors without VNNI, sums of OpenVINO's 8 bits overflow: 12 in 1,000 pixels of
        # another class than float32 has, by LiteRT 4.
        able = able[::-1]
    elif runtime == 'auto' and 'tensorflow' in able and _tensorflow_has_gpu():      # not OpenVINO
        able = sorted(able, key=lambda name: name != 'tensorflow')
    for name in able if runtime == 'auto' else (runtime,):
        if is_installed(name):
            return name
    raise InputError(f"{path} needs {' or '.join(able) if runtime == 'auto' else runtime}, which "
                     'is not installed; `pip install -r requirements-export.txt`')


def _tensorflow_has_gpu():
    """Whether TensorFlow would use a GPU: it may be there without the libraries for it."""
    if not sees_gpu() or not is_installed('tensorflow'):
        return False
    import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
    import tensorflow.compat.v1 as tf
    return bool(tf.config.list_physical_devices('GPU'))


def read_metadata(path):
    """Reads and checks what stands beside an export, and the checksums of its files.

    Args:
        path: folder of the export, or its file.

    Returns:
        (path of the model: a file, or the folder of a SavedModel; dict).

    Raises:
        InputError: there is no metadata, it is damaged or of another version; or a file of the
            model is missing or not as it was written.
    """
    path = Path(path)
    folder = path if os.path.isdir(path) else path.parent
    remedy = ('an export is a folder with its model and export.json, as `python -m roadseg.export '
              'RUN` writes it')
    metadata = read_json(folder / METADATA, remedy)
    version = metadata.get('format_version')
    if version != FORMAT_VERSION:
        raise InputError(f'{folder / METADATA} is of version {str(version)[:20]}, and this '
                         f'program reads version {FORMAT_VERSION}; export the run again')
    size = metadata.get('image_size')
    problem = next((f"'{name}' is {str(metadata.get(name))[:60]}, expected {expected}"
                    for name, right, expected in (
        ('format', str(metadata.get('format')) in RUNTIMES, 'one of ' + ', '.join(RUNTIMES)),
        ('image_size', isinstance(size, list) and len(size) == 2
         and all(type(side) is int and 16 <= side <= 16384 for side in size),
         '[height, width], each from 16 to 16384'),
        ('fixed_size', isinstance(metadata.get('fixed_size'), bool)
         and (metadata['fixed_size'] or metadata.get('format') != 'tflite'),
         'true of tflite; true or false'),
        ('files', isinstance(metadata.get('files'), dict) and bool(metadata['files']),
         'the checksums of the files'),
        ('file', isinstance(metadata.get('file'), str)
         and (metadata['file'] == '.' or isinstance(metadata.get('files'), dict)
              and metadata['file'] in metadata['files']),
         'the name of the model'),
        ('classes', isinstance(metadata.get('classes'), list), 'the names of the classes'),
        *((name, isinstance(metadata.get(name), str), 'the name of a tensor')
          for name in ('input', 'output')),
        ('output_scale', metadata.get('quantization') != 'int8'
         or type(metadata.get('output_scale')) in (int, float), 'a number')) if not right), None)
    if problem:
        raise InputError(f'{folder / METADATA} is damaged: {problem}; export the run again')
    for name, checksum in metadata['files'].items():
        check_file(folder / name, 'export the run again')
        try:
            found = file_checksum(folder / name)
        except (OSError, ValueError) as error:
            reason = describe_os_error(error) if isinstance(error, OSError) else error
            raise InputError(f'cannot read {folder / name}: {reason}; export the run '
                             'again') from error
        if found != checksum:
            raise InputError(f'{folder / name} is not as it was written: its checksum is '
                             f'{found[:12]}, expected {str(checksum)[:12]}; copy or export it '
                             'again')
    if os.path.isfile(path) and path.name not in (metadata['file'], METADATA, *metadata['files']):
        raise InputError(f"{folder / METADATA} is of {metadata['file']}, not of {path.name}; name "
                         'its folder')
    return folder / metadata['file'], metadata


# Opening --------------------------------------------------------------------------------------

class Export:
    """An export that is open. Not to be used by several threads at once.

    Attributes:
        metadata: dict, what stands in export.json: 'classes', 'palette', 'road', 'image_size'
            [H, W], 'fixed_size' and more.
        runtime: name of what it runs on.
    """

    def __init__(self, metadata, runtime, answer, close):
        self.metadata, self.runtime, self._answer, self._close = metadata, runtime, answer, close

    def run(self, images):
        """Probabilities of the classes.

        Args:
            images: uint8 ndarray [N, H, W, 3], RGB; of the size in `metadata` where that is fixed.

        Returns:
            float32 ndarray [N, H, W, C].

        Raises:
            InputError: the images are none, or of another size than the only one there is; or
                the model knows another number of classes than `metadata`.
            ValueError: it is closed.
        """
        if self._answer is None:
            raise ValueError('this export is closed; open it again')
        images = np.ascontiguousarray(images)
        size = tuple(self.metadata['image_size'])
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f'the images are {images.dtype} of the shape {images.shape}, '
                             'expected uint8 (N, H, W, 3), RGB')
        if self.metadata['fixed_size'] and images.shape[1:3] != size:
            raise InputError('this export takes {}x{} pixels only, found {}x{}'.format(
                *size, *images.shape[1:3]))
        answers = self._answer(images)
        if answers.dtype != np.float32:         # of int8
            answers = answers.astype(np.float32) * np.float32(self.metadata['output_scale'])
        if answers.shape[-1] != len(self.metadata['classes']):
            raise InputError(f"{METADATA} names {len(self.metadata['classes'])} classes, and the "
                             f'model has {answers.shape[-1]}; export the run again')
        return answers

    def close(self):
        """Frees what the runtime holds."""
        if self._answer is not None:
            self._answer = None
            self._close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def open_export(path, runtime='auto'):
    """Opens an export.

    Args:
        path: folder of the export, or its file.
        runtime: 'auto', see `choose`, 'tensorflow', 'tflite', 'onnxruntime' or 'openvino'.

    Returns:
        `Export`.

    Raises:
        InputError: it is damaged, or there is no such runtime here; see `read_metadata`.
    """
    model, metadata = read_metadata(path)
    runtime = choose(runtime, metadata['format'], path, metadata.get('quantization'))
    stack = ExitStack()
    try:
        answer = OPENERS[runtime](model, metadata, processors(), stack)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        stack.close()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f'{runtime} cannot open {model}: {reason}; try another --runtime, or '
                         'export the run again') from error
    except BaseException:
        stack.close()
        raise
    return Export(metadata, runtime, answer, stack.close)


# Each opens a model. Arguments: its path, its metadata, the number of threads, and an `ExitStack`
# of what is to be closed. Returns a function uint8 [N, H, W, 3] -> [N, H, W, C], float32 or, of
# int8, uint8.

def _open_tensorflow(model, metadata, threads, stack):
    import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
    import tensorflow.compat.v1 as tf
    from google.protobuf.message import DecodeError
    from roadseg.training.device import open_session, session_config
    from roadseg.tf_paths import literal
    graph, config = tf.Graph(), session_config()
    config.intra_op_parallelism_threads = threads
    sess = stack.enter_context(open_session(config, graph=graph))
    try:
        with graph.as_default():
            if metadata['format'] == 'savedmodel':
                with literal(model) as folder:
                    tf.saved_model.loader.load(sess, [tf.saved_model.SERVING], str(folder))
            else:
                tf.import_graph_def(tf.GraphDef.FromString(model.read_bytes()), name='')
        tensors = [graph.get_tensor_by_name(metadata[name] + ':0') for name in ('input', 'output')]
    except (tf.errors.OpError, DecodeError, KeyError) as error:
        raise ValueError(str(getattr(error, 'message', error))) from error
    if tensors[0].dtype != tf.uint8 or tensors[1].dtype != tf.float32:
        raise ValueError(f'it takes {tensors[0].dtype.name} and gives {tensors[1].dtype.name}; '
                         'expected uint8 and float32')
    call = sess.make_callable(tensors[1], feed_list=tensors[:1])

    def look(images):
        with naming_lack_of_memory(f'{model} was used'):
            return call(images)

    return look


def _open_tflite(model, metadata, threads, stack):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import roadseg.quiet        # noqa: F401, isort: skip; before TensorFlow
        import tensorflow as tf
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings(action='ignore'):      # TensorFlow's own recommends LiteRT
        interpreter = Interpreter(str(model), num_threads=threads)
    interpreter.allocate_tensors()
    _check_size(interpreter.get_input_details()[0]['shape'], metadata)
    source = interpreter.get_input_details()[0]['index']
    result = interpreter.get_output_details()[0]['index']

    def look(image):
        interpreter.set_tensor(source, image[np.newaxis])
        interpreter.invoke()
        return interpreter.get_tensor(result)[0]

    return lambda images: np.stack([look(image) for image in images])


def _check_size(taken, metadata):
    """Raises ValueError where a model of one size takes another than its metadata say."""
    taken = tuple(map(int, taken))
    if taken != (1, *metadata['image_size'], 3):
        raise ValueError(f"it takes {taken}, and {METADATA} says {metadata['image_size']}")


def _open_onnxruntime(model, metadata, threads, stack):
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3          # errors
    try:
        session = onnxruntime.InferenceSession(model.read_bytes(), options,
                                               providers=['CPUExecutionProvider'])
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail,
            errors.NotImplemented) as error:
        raise ValueError(str(error)) from error
    if [tensor.name for tensor in session.get_inputs()] != [metadata['input']]:
        raise ValueError(f"it has no input {metadata['input']}")
    return lambda images: session.run(None, {metadata['input']: images})[0]


def _open_openvino(model, metadata, threads, stack):
    import openvino
    core = openvino.Core()
    network = core.read_model(str(model))
    compiled = core.compile_model(network, 'CPU', {
        'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_PRECISION_HINT': 'f32'})     # bfloat16 by itself, where the processor has it
    request = compiled.create_infer_request()

    def look(images):
        return request.infer([images])[0].copy()

    if metadata['fixed_size']:
        _check_size(network.input(0).shape, metadata)
        return lambda images: np.concatenate([look(image[np.newaxis]) for image in images])
    return look


OPENERS = {'tensorflow': _open_tensorflow, 'tflite': _open_tflite,
           'onnxruntime': _open_onnxruntime, 'openvino': _open_openvino}


# Timing ---------------------------------------------------------------------------------------

def time_export(path, runtime):
    """Times an export, in a process of its own, see `time_runs`."""
    with open_export(path, runtime) as opened:
        time_runs(lambda image: opened.run(image[np.newaxis]), opened.metadata['image_size'])


def time_runs(look, image_size):
    """Answers every line on the standard input by one on the standard output.

    'memory' by the most bytes that this process has had in memory; any other by the milliseconds
    that one photograph takes.

    Args:
        look: function of a uint8 ndarray [H, W, 3].
        image_size: (H, W).
    """
    image = np.random.default_rng(0).integers(0, 256, (*image_size, 3), np.uint8)
    for line in sys.stdin:
        if line.strip() == 'memory':
            print(peak_memory(), flush=True)
        else:
            began = time.perf_counter()
            look(image)
            print(1e3 * (time.perf_counter() - began), flush=True)


def peak_memory():
    """The most bytes that this process has had in memory; 0 where that is not known."""
    try:        # not `getrusage`, which counts the process that this one was forked from, too
        lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith('VmHWM:')), 0)
