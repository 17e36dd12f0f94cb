"""Adapters of base models."""
