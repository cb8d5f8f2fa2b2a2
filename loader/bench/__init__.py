"""Measuring how models load: engines in fresh processes, watched from outside, in turn, on a page cache in a known state."""
