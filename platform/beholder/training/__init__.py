"""Fine-tuning a model: context, loop, batches, losses, adapters."""
