"""Flower as the transport of federated rounds.

`engine` has the interface that the coordinator uses, without types of Flower. All use of Flower's internal Control API
is in `control`. Nodes run Flower's own `flower-supernode` (`supernode`), which starts `client_app` per message.
"""
