"""What a training run does after each epoch and at its end: save, score, log, draw."""
import time
from pathlib import Path

import tensorflow.compat.v1 as tf
from tqdm import tqdm

import roadseg.training.tensorboard as tensorboard
from roadseg.files import write_json
from roadseg.inference import averaged_weights
from roadseg.scoring import page, score
from roadseg.training import checkpoints
from roadseg.training.pipeline import read_pair
from roadseg.training.run_folder import column, log_columns, read_log, write_log


class Recorder:
    """Keeps the folder of a training run.

    Args:
        folder: of the run.
        saver: `tf.train.Saver` of all variables.
        progress: `Progress`, kept up to date by the training.
        network: `inference.Network`.
        dataset: `Dataset`.
        validation: list of (image, label) paths that are held out; [] for none.
        options: namespace; `split` and `save_minutes` are used.
    """

    def __init__(self, folder, saver, progress, network, dataset, validation, options):
        self.folder, self.saver, self.progress = Path(folder), saver, progress
        self.network, self.dataset, self.options = network, dataset, options
        self.validation = validation
        self.rows = [row for row in read_log(folder) if int(row['epoch']) <= progress.epoch]
        self.writer = tf.summary.FileWriter(str(self.folder / 'tensorboard'), network.sess.graph)
        self.saved_at = time.monotonic()

    def after_step(self):
        """Writes a checkpoint, where the last one is older than --save-minutes."""
        if time.monotonic() - self.saved_at >= 60 * self.options.save_minutes:
            self.save()

    def after_epoch(self, row):
        """Saves, scores the held-out photographs, and writes log, TensorBoard events and page.

        Args:
            row: dict that `train_nn` makes; the results are added to it.
        """
        if self.validation:
            with averaged_weights(self.network.sess):
                result = score.score(self.network, self.dataset, self.samples())
                panels = [(name, photograph, truth,
                           self.dataset.measures.predict(self.network, photograph))
                          for name, photograph, truth in self.samples(every=16)]
            row |= {'val_loss': result['loss']} | self.logged(result)
            scores = ', '.join(f'{name} {row[column(name)]:.2f}'
                               for name in self.dataset.measures.LOGGED if column(name) in row)
            tqdm.write(f"    {self.title()}: loss {result['loss']:.4f}, {scores}")
            for panel in panels:
                tensorboard.write_panel(self.writer, row['step'], *panel, self.dataset)
        tensorboard.write_scalars(self.writer, row['step'],
                                  {key: row[key] for key in row if key not in ('epoch', 'step')})
        self.writer.flush()
        self.rows.append(row)
        write_log(self.folder, self.rows, log_columns(self.dataset.measures.LOGGED))
        self.save()
        page.write_page(self.folder)

    def logged(self, result):
        """The columns of the log that follow from a result of `score.score`."""
        scores = score.measures_by_group(result['counts'], self.dataset)[self.dataset.pooled]
        return {column(name): scores[name]
                for name in self.dataset.measures.LOGGED if name in scores}

    def samples(self, every=1):
        """Yields (name, photograph, classes) of each held-out photograph, read anew."""
        for pair in self.validation[::every]:
            yield pair[0].stem, *read_pair(pair, self.dataset.read_label)

    def title(self):
        """Names the held-out photographs, such as 'KITTI Road, val3'."""
        return f'{self.dataset.title}, {self.options.split}'

    def save(self):
        """Writes a checkpoint."""
        self.saved_at = time.monotonic()
        return checkpoints.save(self.network.sess, self.saver, self.folder, self.progress)

    def stop(self):
        """Saves what a signal interrupted, and raises KeyboardInterrupt that says how to go on."""
        path = self.save()
        page.write_page(self.folder)
        raise KeyboardInterrupt(f'stopped; saved {path}; go on with '
                                f'python main.py --resume {self.folder}')

    def score_last(self):
        """Scores the last weights, with pictures, and prints the table."""
        if not self.validation:
            return
        result = score.score(self.network, self.dataset, self.samples(),
                             self.folder / 'validation')
        write_json(self.folder / 'evaluation.json', score.summary(
            result, self.dataset, f'step-{self.progress.step:06d}', self.options.split,
            self.network))
        print(f'{self.title()}: {score.tables([result], self.dataset)}')

    def finish(self):
        """Closes the events, and writes the page."""
        self.writer.close()
        page.write_page(self.folder)
