"""The command line: the only place that knows Typer and Rich.

Does not: draw, plan or decide anything about pixels.
"""
