"""Tapes: files with recorded frames and REST responses.

`recorder` writes a tape while a stream runs, `reader` reads it, `replay` pushes its frames through
parser and stages. `flight_recorder` keeps the last seconds in memory and writes them as a tape when
something fails. `compression` opens and compresses tapes by the ending of their names.
"""
