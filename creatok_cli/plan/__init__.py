"""Sheets to plans: reading, checking, expanding and batching. No torch here.

Does not: import its own modules; `creatok_cli.plan.sheet` alone needs pydantic.
"""
