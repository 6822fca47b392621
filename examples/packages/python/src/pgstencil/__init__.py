"""Migrated Postgres databases for tests, by the command ``pgstencil``."""

from ._resident import Database, PgstencilError, Resident, binary, database

__all__ = ["Database", "PgstencilError", "Resident", "binary", "database"]
