"""What lets the tests use clones of pgstencil without Django's look for new migrations."""

import os

from django.db import connections
from django.test.runner import DiscoverRunner

NAMES = {value for name, value in os.environ.items() if name.startswith("PGSTENCIL_NAME")}


def skip_migrations():
    """Call this only if the test databases are kept: one that Django makes itself needs them."""
    for connection in connections.all():
        if connection.settings_dict["TEST"]["NAME"] in NAMES:
            connection.settings_dict["TEST"]["MIGRATE"] = False


class Runner(DiscoverRunner):
    def setup_databases(self, **kwargs):
        if self.keepdb:
            skip_migrations()
        return super().setup_databases(**kwargs)
