from alembic import op

revision = "b7d1"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE users (id int PRIMARY KEY)")
