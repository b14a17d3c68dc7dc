"""Input pipeline: sources, decoding, crops, batches and mixing."""
