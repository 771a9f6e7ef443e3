"""A prediction as `roadseg.load` makes it against PyTorch's and Keras', in alternation.

    python benchmarks/infer.py [--encoder data/vgg] [--batches 1 2] [--precisions float32 bfloat16]

See benchmarks/train.py. Exports are faster than the training graph: `python -m roadseg.export RUN
--compare`.
"""
import sys
from functools import partial

from train import measure, run_command

if __name__ == '__main__':
    sys.exit(run_command(partial(measure, 'infer')))
