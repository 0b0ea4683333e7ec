"""The faults of a cluster. Load, audit and verdict are those of test/faults.

site.py       the cluster as an object, as the judge of test/faults wants to see it
watch.py      how long sends and deliveries stood still
cases.py      what a case is
cases_*.py    the faults
"""
