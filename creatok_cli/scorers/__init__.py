"""Measures: what a picture is worth, or shows. One file per metric.

Does not: import anything; plug-ins are found by file name (see `registry`).
"""
