"""The data set that a run was trained on, found again to score or export the run."""
import os

from roadseg.datasets import catalogue
from roadseg.errors import InputError
from roadseg.training.options import complete
from roadseg.training.run_folder import check_classes, data_folder, noted_photographs, read_run


def open_dataset(run, named=None):
    """Describes the data set of a run. Nothing is downloaded or drawn.

    Args:
        run: folder.
        named: where the data lie now, which may be other photographs; None for where they lay.

    Returns:
        (`Dataset`, its folder, dict of the run's options).

    Raises:
        InputError: it is not there, or has other classes.
    """
    made = read_run(run)
    options = complete(made['options'], run)
    place = options['data_dir'] if named is None else named
    folder = named if named is not None else data_folder(run, place, made['data'].get('folder'))
    if not os.path.isdir(folder or place):
        raise InputError(f"there is no folder {place}{' here' * (not os.path.isabs(place))}, "
                         f"where the data of {run} {'lay' if named is None else 'should be'}; "
                         'name it with --data-dir')
    if folder is None:
        noted = noted_photographs(run)
        raise InputError(f'none of the {len(noted)} photographs of {run} is in {place}, such as '
                         f'{noted[0]}; name the folder that they are in with --data-dir')
    catalogue.check_there(options['dataset'], folder, options['classes'])
    dataset = catalogue.load(options['dataset'], folder, options['classes'], strict=False)
    check_classes(run, dataset)
    return dataset, folder, options
