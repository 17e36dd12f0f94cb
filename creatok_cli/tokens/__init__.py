"""Learned artefacts: tokens, their files, and how they enter a prompt."""
