"""The formats of `llmsched.traces`: a table of them (`formats.py`), and how their files are read and written.

Every text format is read twice over by two readers that must agree. The fast one takes a block of lines at once and
gives up (None) at the slightest doubt; the careful one takes row by row, names what is wrong with a row, and is the
definition of the format. The careful one only sees the blocks that the fast one gave up on.
"""
