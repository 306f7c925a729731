"""The contract both ends share: events, results, energy, bundles, subjects, names, errors.

Imports nothing of ours, only the standard library and pydantic.
"""
