"""Tapes: recorded frames and REST answers in a file.

`recorder` writes one, `reader` reads it, `replay` streams it; `flight_recorder` keeps the last seconds
in memory, and writes them as a tape when something breaks.
"""
