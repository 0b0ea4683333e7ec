"""The private stack behind compose/local: one module a concern.

config.py     what a stack is made of: ports, names, settings, what is remembered between calls
process.py    start, find and stop processes by recorded identity
services.py   how each kind of service is started and how it says that it is ready
command.py   the command line's words, shared with compose/cluster
stack.py      the verbs: up, down, start, stop, status, env
"""
