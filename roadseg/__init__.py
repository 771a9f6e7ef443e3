"""What goes beyond the script: one module is one concept or one command."""


def load(source=None, *, runtime='auto', checkpoint='last', test_scale=None, flip_test=None):
    """Opens a trained network: `roadseg.load('runs/<date-time>').predict(image)`.

    Nothing is imported before it is called, so that `import roadseg` takes no time.

    Args:
        source: folder of a run; an export, see `roadseg.export`; None for the network that comes
            with this package.
        runtime: what an export runs on: 'auto', 'tensorflow', 'tflite', 'onnxruntime' or
            'openvino'.
        checkpoint: 'last' or 'best', of a run.
        test_scale: factor of the training's size, 0.1-8, to predict at, of a run; of several, the
            mean of the probabilities. None for as in the training.
        flip_test: whether to average with the mirrored photograph, of a run; None for as in the
            training.

    Returns:
        `roadseg.model.Model`.

    Raises:
        InputError: there is no whole run or export, or no such runtime here; or an export is asked
            for what only a run has; or the memory won't do for a size.
    """
    from roadseg import model
    return model.load(source, runtime, checkpoint, test_scale, flip_test)
