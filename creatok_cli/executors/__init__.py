"""Engines: where batches are drawn."""
