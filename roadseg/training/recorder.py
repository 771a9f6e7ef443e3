"""What a training run does after each epoch and at its end: save, score, log, draw."""
import math
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import tensorflow.compat.v1 as tf
from tqdm import tqdm

import roadseg.training.tensorboard as tensorboard
from roadseg.errors import InputError
from roadseg.files import describe_os_error, write_json
from roadseg.scoring import figures, page, score
from roadseg.scoring.runs_page import write_runs_page
from roadseg.tf_errors import as_os_error
from roadseg.training import checkpoints
from roadseg.training.held_out import Stopped
from roadseg.training.run_folder import class_columns, column, log_columns, read_log, write_log


class Recorder:
    """Keeps the folder of a training run.

    What costs training to get is saved first. What only shows it, events and page, may fail with
    a warning.

    Args:
        held_out: `held_out.HeldOut`.
        folder: of the run.
        writer: `checkpoints.Writer`.
        progress: `Progress`, kept up to date by the training.
        options: namespace; `split`, `save_minutes`, `validate_every`, `epochs` and `max_steps`
            are used.

    Raises:
        InputError: `log.csv` is damaged, or can't be written.
    """

    def __init__(self, held_out, folder, writer, progress, options):
        self.folder, self.writer, self.progress = Path(folder), writer, progress
        self.pictures, self.last_result = self.folder / 'validation', None      # see `score_last`
        self.held_out, self.options = held_out, options
        self.network, self.dataset = held_out.network, held_out.dataset
        logged = read_log(folder)
        self.rows = [row for row in logged if int(row['epoch']) <= progress.epoch]
        if self.rows != logged:         # these epochs come again; the best of them is no more
            self.write_log()
        self.events = None
        with self.events_may_fail():
            self.events = tensorboard.EventFile(
                self.folder / 'tensorboard', self.network.sess.graph, progress.step)
        self.saved_at, self.is_saved = time.monotonic(), True   # whether the last epoch is
        self.beside, self.page = ThreadPoolExecutor(1), None    # page: a future, or None

    # While it trains --------------------------------------------------------------------------

    def catch_up(self):
        """Scores and logs the epoch that was saved when the run ended, and not logged."""
        row, epoch = self.progress.row, self.progress.epoch
        if row is not None and all(int(logged['epoch']) < epoch for logged in self.rows):
            self.record(row)
        else:
            self.held_out.scored(False)     # the other workers wait to be told
        self.progress.row = None

    def after_step(self):
        """Writes a checkpoint, lest the last one becomes older than --save-minutes.

        A disk that takes longer than that for one does not hold the training up.

        Raises:
            InputError: this or an earlier one could not be written.
        """
        self.writer.check()
        due = 60 * self.options.save_minutes - self.writer.seconds
        if time.monotonic() - self.saved_at >= due and not self.writer.is_busy():
            self.save()

    def after_epoch(self, row):
        """Saves, scores the held-out photographs, and writes log, TensorBoard events and page.

        The checkpoint may be on the disk later than its row of the log. After a kill in between,
        the training goes on from the one before, and the row is made anew. An epoch that ends
        while the last checkpoint is still being written goes without, lest a fast GPU wait for
        the disk.

        Args:
            row: dict that `train_nn` makes.

        Raises:
            InputError: something could not be written or read.
            KeyboardInterrupt: a request to end came; what is not done yet, `catch_up` does.
        """
        self.progress.row = row
        self.writer.check()
        self.is_saved = self.is_last(row) or self.is_due(row) and not self.writer.is_busy()
        if self.is_saved:
            self.save()
        self.record(row)
        self.progress.row = None

    def is_due(self, row):
        """Whether --validate-every says so of the epoch of a row of the log, or it is the last."""
        return row['epoch'] % self.options.validate_every == 0 or self.is_last(row)

    def is_last(self, row):
        """Whether the training ends with the epoch of a row of the log."""
        return row['epoch'] == self.options.epochs or row['step'] == self.options.max_steps

    def record(self, row):
        """Scores the held-out photographs and writes the results, see `after_epoch`."""
        panels, unwritten = {}, []
        draws_all = self.is_last(row) and self.held_out.team.count == 1

        def draw(name, *of_frame):
            if name in self.held_out.shown:
                panels[name] = tensorboard.panel(*of_frame, self.dataset)
            if draws_all and not unwritten:
                try:
                    score.write_pictures(self.pictures, name, *of_frame, self.dataset)
                except InputError as error:     # the log's row comes first, see `score_last`
                    unwritten.append(error)

        with self.saying_farewell():
            result = self.held_out.scored(self.is_due(row), draw)
        if draws_all and not unwritten:
            self.last_result = self.held_out.result
        if result is not None:
            loss, measures = result
            names, logged = self.dataset.classes, self.dataset.measures.LOGGED
            columns = {**{name: column(name) for name in logged},
                       **{f'IoU {name}': key for name, key in zip(names, class_columns(names))}}
            row = {**row, 'val_loss': loss, **{
                key: measures[name] for name, key in columns.items() if name in measures}}
            scores = ', '.join(f'{name} {measures.get(name, math.nan):.2f}'.replace('nan', '-')
                               for name in self.dataset.measures.LOGGED)
            tqdm.write(f'    {self.title()}: loss {loss:.4f}, {scores}')
        self.rows.append(row)
        self.write_log()
        if self.events is not None:
            with self.events_may_fail():
                for name in sorted(panels):
                    tensorboard.write_picture(self.events, row['step'], f'held out/{name}',
                                              panels[name])
                tensorboard.write_scalars(
                    self.events, row['step'],
                    {key: row[key] for key in row if key not in ('epoch', 'step')})
                self.events.flush()
        self.write_page_beside()

    def title(self):
        """Names the held-out photographs, such as 'KITTI Road, val3'."""
        return f'{self.dataset.title}, {self.options.split}'

    # Writing ----------------------------------------------------------------------------------

    def save(self):
        """Begins to write a checkpoint, which goes on beside the training."""
        self.writer.save(self.progress)
        self.saved_at = time.monotonic()

    def write_log(self):
        """Writes `log.csv`."""
        write_log(self.folder, self.rows, log_columns(self.dataset.measures.LOGGED))

    def write_page_beside(self):
        """Writes the page in a thread, while the training goes on.

        Where an earlier epoch's is not finished, that of a later one will show this epoch, too.
        """
        if self.page is None or self.page.done():
            self._finish_page()
            self.page = self.beside.submit(self._write_page)

    def write_page(self):
        """Writes the page, without which the training goes on."""
        self._finish_page()
        self._write_page()

    def _finish_page(self):
        """Waits for the page that is being written, if one is, and raises what it raised."""
        if self.page is not None:
            self.page.result()

    def _write_page(self):
        try:
            page.write_page(self.folder)
        except (InputError, OSError) as error:      # the latter where a picture has just gone
            tqdm.write(f'warning: no page: {error}', file=sys.stderr)

    @contextmanager
    def events_may_fail(self):
        """Where events can't be written, warns once, and writes none from then on."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.events = None
            tqdm.write('warning: no more events for TensorBoard, as they cannot be written: '
                       + describe_os_error(as_os_error(error)), file=sys.stderr)

    # At the end -------------------------------------------------------------------------------

    def stop(self):
        """Saves what a signal interrupted, and raises KeyboardInterrupt that says how to go on."""
        self.save()
        self.write_page()
        raise KeyboardInterrupt(self.farewell())

    @contextmanager
    def saying_farewell(self):
        """Where the scoring is asked to end, says how to go on."""
        try:
            yield
        except Stopped:
            if not self.is_saved:
                self.save()
            raise KeyboardInterrupt(self.farewell()) from None

    def farewell(self):
        """What is said at the end of a run that a signal interrupted, when it is saved."""
        self.writer.wait()
        saved = checkpoints.saved(self.folder)
        if not saved:
            raise InputError(f'{self.folder} has been removed while it was trained')
        return (f'stopped; saved {saved[-1]}; go on with python main.py --resume '
                + shlex.quote(str(self.folder)))

    def score_last(self):
        """Scores the last weights, with pictures, and prints the table.

        One worker of one has done that with the last epoch. Otherwise, and in a run that was
        resumed at its end, they are scored anew, by the worker that has the run folder.
        """
        if not self.held_out.pairs:
            return
        result = self.last_result
        if result is not None:
            score.remove_other_pictures(self.pictures, result['counts'])
        else:
            with self.saying_farewell():
                result = score.score(self.network, self.dataset,
                                     self.held_out.samples(self.held_out.pairs), self.pictures)
        summary = score.summary(result, self.dataset, f'step-{self.progress.step:06d}',
                                self.options.split, self.network)
        write_json(self.folder / 'evaluation.json', summary)
        if self.events is not None and 'confusion' in summary['detail']:
            self._finish_page()         # which draws, too
            with self.events_may_fail():
                tensorboard.write_picture(self.events, self.progress.step, 'confusion',
                                          figures.confusion(summary['detail']['confusion'],
                                                            self.dataset.classes))
                self.events.flush()
        print(f'{self.options.split}: {score.tables([result], self.dataset)}')

    def finish(self):
        """Writes the page, and the one that compares all runs."""
        self.write_page()
        try:
            write_runs_page(self.folder.resolve().parent)
        except InputError as error:
            tqdm.write(f'warning: no comparison of runs: {error}', file=sys.stderr)
