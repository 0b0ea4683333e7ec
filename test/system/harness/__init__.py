"""What the system tests see the platform through: its HTTP interface, the database, the broker and
the simulators' ledgers. Nothing here shares code with the daemons.

stack.py      one stack of compose/local, its lifetime and its single services
client.py     HTTP calls, and a load of many sends that retries with its keys
witness.py    the database and the broker, read directly
operators.py  the simulators: faults and ledgers
carrier.py    operators that misbehave in ways the simulators cannot, with their own record
metrics.py    the Prometheus text
audit.py      the invariants
"""
