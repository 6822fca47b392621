"""Django's Postgres backend, but a clone that is kept as the test database is used as it is."""

import os

from django.conf import settings
from django.core.management import call_command
from django.db.backends.postgresql import base, creation

CLONES = {value for name, value in os.environ.items() if name.startswith("PGSTENCIL_NAME")}


class DatabaseCreation(creation.DatabaseCreation):
    def create_test_db(self, verbosity=1, autoclobber=False, serialize=True, keepdb=False):
        """Does the same as Django, without `migrate`, which would have nothing to do."""
        name = self._get_test_db_name()
        if not keepdb or name not in CLONES:
            return super().create_test_db(verbosity, autoclobber, serialize, keepdb)
        self.connection.close()
        settings.DATABASES[self.connection.alias]["NAME"] = name
        self.connection.settings_dict["NAME"] = name
        if serialize:
            self.connection._test_serialized_contents = self.serialize_db_to_string()
        call_command("createcachetable", database=self.connection.alias)
        return name


class DatabaseWrapper(base.DatabaseWrapper):
    creation_class = DatabaseCreation
