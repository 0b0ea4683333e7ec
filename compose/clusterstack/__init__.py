"""The cluster behind compose/cluster: one module a concern. What a service is, and how processes are kept, comes from
compose/localstack.

config.py     machines, addresses, who runs where, what is remembered between calls
net.py        network namespaces, what runs inside them, partitions
services.py   how each kind of service is started on its machine
database.py   who is the primary: promotion, fencing, rebuilding, the two modes
cluster.py    the verbs
"""
