"""The benchmark behind test/bench/run: one module a concern.

usage.py     processor time and memory of processes, from /proc
fill.py      rows as msg-api and msg-consumerd would have written them, in bulk
platform.py  a platform under measurement and the load tool against it
rows.py      what is measured, and what is promised of it
against.py   two builds in turn, and how their costs compare
report.py    the terminal, the file of results and the pages' tables
"""
