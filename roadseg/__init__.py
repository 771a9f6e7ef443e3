"""What goes beyond the script: one module is one concept or one command."""


def load(source=None, *, runtime='auto', checkpoint='last'):
    """Opens a trained network: `roadseg.load('runs/<date-time>').predict(image)`.

    Nothing is imported before it is called, so that `import roadseg` takes no time.

    Args:
        source: folder of a run; an export, see `roadseg.export`; None for the network that comes
            with this package.
        runtime: what an export runs on: 'auto', 'tensorflow', 'tflite', 'onnxruntime' or
            'openvino'.
        checkpoint: 'last' or 'best', of a run.

    Returns:
        `roadseg.model.Model`.

    Raises:
        InputError: there is no whole run or export, or no such runtime here.
    """
    from roadseg import model
    return model.load(source, runtime, checkpoint)
