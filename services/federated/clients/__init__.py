"""Clients for the services that this service calls. Each client implements a Protocol from `ports`."""
