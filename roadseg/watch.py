"""What a training run does after each epoch and at its end: score, log, save, draw."""
from pathlib import Path

import tensorflow.compat.v1 as tf

import helper
from roadseg import checkpoints, report, scoring, tensorboard
from roadseg.metrics import POOLED, measures_by_category
from roadseg.run_folder import read_log, write_json, write_log


class Watch:
    """Watches a training run and keeps its folder.

    Args:
        folder: of the run.
        saver: `tf.train.Saver` of all variables.
        progress: `Progress`, kept up to date by the training.
        network: `scoring.Network`.
        samples: list of held-out photographs, as `scoring.read_samples` yields; [] for none.
        split: name of the split that holds them out.
    """

    def __init__(self, folder, saver, progress, network, samples, split):
        self.folder, self.saver, self.progress = Path(folder), saver, progress
        self.network, self.samples, self.split = network, samples, split
        self.rows = [row for row in read_log(folder) if int(row['epoch']) <= progress.epoch]
        self.writer = tf.summary.FileWriter(str(self.folder / 'tensorboard'), network.sess.graph)

    def after_epoch(self, row):
        """Scores the held-out photographs, and writes log, checkpoint and TensorBoard events.

        Args:
            row: dict that `train_nn` makes; the results are added to it.
        """
        if self.samples:
            with scoring.averaged_weights(self.network.sess):
                result = scoring.score(self.network, self.samples)
                panels = [(*sample, self.network.look(sample[1])) for sample in self.samples[::16]]
            urban = measures_by_category(result['histograms'])[POOLED]
            row |= {'val_loss': result['loss'], 'val_maxf': urban['MaxF'],
                    'val_ap': urban['AP'], 'val_iou': urban['IoU'], 'val_f1': urban['F1']}
            print(f"    {self.split}: loss {result['loss']:.4f}, MaxF {urban['MaxF']:.2f}, "
                  f"IoU {urban['IoU']:.2f}, F1 {urban['F1']:.2f}", flush=True)
            for name, photograph, classes, probability in panels:
                tensorboard.write_panel(self.writer, row['step'], name, photograph, classes,
                                        probability)
        tensorboard.write_scalars(self.writer, row['step'],
                                  {key: row[key] for key in row if key not in ('epoch', 'step')})
        self.writer.flush()
        self.rows.append(row)
        write_log(self.folder, self.rows)       # first, as a resumed run drops surplus rows
        self.save()

    def save(self):
        """Writes a checkpoint."""
        return checkpoints.save(self.network.sess, self.saver, self.folder, self.progress)

    def finish(self, data_dir):
        """Scores the last weights, writes the overlays and the page, and prints the table.

        Args:
            data_dir: holds `data_road/testing`.
        """
        with scoring.averaged_weights(self.network.sess):
            if self.samples:
                result = scoring.score(self.network, self.samples, self.folder / 'validation')
                write_json(self.folder / 'evaluation.json', scoring.summary(
                    result, f'step-{self.progress.step:06d}', self.split, self.network))
                print(f'{self.split}: {scoring.text([result])}')
            network = self.network
            helper.save_inference_samples(
                self.folder.parent, data_dir, network.sess, network.image_shape, network.logits,
                network.keep_prob, network.input_image, output_dir=self.folder / 'overlays',
                scales=network.scales, flip=network.flip)
        self.writer.close()
        report.write_report(self.folder)
