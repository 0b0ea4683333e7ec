"""The fault suite: what breaks, how often, and what it cost.

site.py     a platform whose daemons are this process's children: killed and started in milliseconds
load.py     senders that repeat with their keys, or that may not fail at all
check.py    waits for rest, asks the three witnesses, counts what went wrong
report.py   the table
cases_*.py  the faults
"""
