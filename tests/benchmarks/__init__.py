"""Feedline beside its peers: same work, same workers, same run.

``python -m tests.benchmarks`` runs all rows, ``python -m tests.benchmarks mid`` one.
"""
