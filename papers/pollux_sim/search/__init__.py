"""The genetic search for allocations."""
