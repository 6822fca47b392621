from alembic import op

revision = "9f31c2"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE users (id int PRIMARY KEY)")
