"""NeuroPrune: transformers that get small while they are fine-tuned."""
