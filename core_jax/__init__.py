"""What the model families share: Transformer, losses, optimizers, sharding, data, checkpoints, the training loop."""
