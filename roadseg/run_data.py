"""The data set that a run was trained on, found again to score or export the run."""
import os

from roadseg.datasets import catalogue
from roadseg.errors import InputError
from roadseg.training.options import complete
from roadseg.training.run_folder import check_classes, data_folder, read_photographs, read_run


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
    folder = options['data_dir'] if named is None else named
    if named is None:
        folder = data_folder(run, folder, made['data'].get('folder')) or folder
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder}{' here' * (not os.path.isabs(folder))}, "
                         f"where the data of {run} {'lay' if named is None else 'should be'}; "
                         'name it with --data-dir')
    if named is None and data_folder(run, folder) is None:
        noted = [name for names in read_photographs(run).values() for name in names]
        raise InputError(f'none of the {len(noted)} photographs of {run} is in {folder}, such as '
                         f'{noted[0]}; name the folder that they are in with --data-dir')
    catalogue.check_there(options['dataset'], folder)
    dataset = catalogue.load(options['dataset'], folder, options['classes'], strict=False)
    check_classes(run, dataset)
    return dataset, folder, options
