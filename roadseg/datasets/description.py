"""What everything else knows of a data set: a plain description, made by the `load` of its module.

Batches, loss, validation, page, overlays and evaluation ask the description, and know no data set
by name. By name go only: the defaults in `training.options`, which encoder and convolutions the
demo gets, where a folder of one's own finds VGG16, `evaluate --submission`, and that names in such
a folder say nothing elsewhere.
"""
from types import ModuleType
from typing import Callable, NamedTuple

IGNORED = 255               # the class number of pixels that are not evaluated


class Dataset(NamedTuple):
    """A data set whose files are there."""
    name: str               # as typed after --dataset
    title: str              # as on a page: 'KITTI Road'
    classes: tuple          # names of the C classes; a class's number is its place, from 0
    palette: tuple          # C colours (r, g, b), 0-255, in which they are painted
    road: int | None        # number of the class that is road
    measures: ModuleType    # scoring.road, of two classes of which 1 is road; or scoring.classes
    labelled: list          # (image, label) paths of all labelled photographs, in order
    tests: list             # paths of the photographs without a label
    read_label: Callable    # path -> uint8 (H, W) class numbers, `IGNORED` where not evaluated
    split: Callable         # name of a split -> (training pairs, validation pairs)
    default_split: str
    groups: dict = {}       # groups that are scored apart, too: from name to meaning
    group: Callable = lambda name: None     # name of a photograph -> its group
    pooled: str = 'all'     # name of the row for all photographs together
    server: str | None = None   # whose server scores the test photographs: 'kitti', 'cityscapes'
