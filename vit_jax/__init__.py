"""Images: Vision Transformers, their data and their objectives."""
