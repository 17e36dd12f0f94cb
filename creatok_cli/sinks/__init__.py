"""Outputs: what becomes of finished pictures. One file per sink.

Does not: import anything; plug-ins are found by file name (see `registry`).
"""
