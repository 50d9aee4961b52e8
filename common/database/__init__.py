"""A service's tables. The embedded mesh uses SQLite and the stack uses PostgreSQL; both behave the same."""

from common.database.base import Base, now_us
from common.database.database import Database
from common.database.pages import MAX_PAGE_SIZE, PageRequest, fetch_page
from common.database.prepared import PooledConnection, Prepared, Statement
from common.database.requests import Repeatable, earlier, once

__all__ = [
    "MAX_PAGE_SIZE",
    "Base",
    "Database",
    "PageRequest",
    "PooledConnection",
    "Prepared",
    "Repeatable",
    "Statement",
    "earlier",
    "fetch_page",
    "now_us",
    "once",
]
