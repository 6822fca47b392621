from alembic import op

revision = "0e55"
down_revision = "b7d1"


def upgrade():
    op.execute("CREATE TABLE orders (id int PRIMARY KEY)")
