"""Scheduling policies: Pollux, Optimus+Oracle, Tiresias; and autoscaling."""
