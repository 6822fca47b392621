from alembic import op

revision = "1a2b3c"
down_revision = "c0ffee"


def upgrade():
    op.execute("CREATE TABLE items (id int PRIMARY KEY)")
