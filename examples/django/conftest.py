import pytest

from bakery import clones


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings, django_db_keepdb, django_db_createdb):
    if django_db_keepdb and not django_db_createdb:
        clones.skip_migrations()
