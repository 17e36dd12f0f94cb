"""Workflows: generators of events, one per command.

Does not: print or exit; the caller owns bars, messages and exit codes.
"""
