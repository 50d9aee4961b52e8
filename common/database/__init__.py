"""A service's tables. The embedded mesh uses SQLite and the stack uses PostgreSQL; both behave the same."""

from common.database.base import Base, now_us
from common.database.database import Database
from common.database.pages import PageRequest, fetch_page
from common.database.requests import Repeatable, once

__all__ = ["Base", "Database", "PageRequest", "Repeatable", "fetch_page", "now_us", "once"]
