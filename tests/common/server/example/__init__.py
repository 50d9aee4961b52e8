"""A whole service for tests, with the methods of `tests.common.server.servicer`."""
