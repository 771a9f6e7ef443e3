"""A prediction as `roadseg.load` makes it against PyTorch's and Keras', in alternation.

    python benchmarks/infer.py [--encoder data/vgg] [--batches 1 2] [--precisions float32 bfloat16]

See benchmarks/train.py. Exports are faster than the training graph: `python -m roadseg.export RUN
--compare`.
"""
from train import measure

if __name__ == '__main__':
    measure('infer')
