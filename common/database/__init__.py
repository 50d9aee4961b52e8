"""A service's own tables: SQLite embedded, a PostgreSQL schema in the stack, one behaviour on both."""

from common.database.base import Base, now_us
from common.database.database import Database
from common.database.pages import decode_page_token, encode_page_token, page_size
from common.database.requests import once

__all__ = ["Base", "Database", "decode_page_token", "encode_page_token", "now_us", "once", "page_size"]
