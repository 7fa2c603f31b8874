"""Throughput, efficiency and goodput of a job, and their fit to what was measured."""
