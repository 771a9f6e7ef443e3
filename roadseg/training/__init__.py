"""What a training run needs beyond the script: options, device, input, checkpoints, records."""
