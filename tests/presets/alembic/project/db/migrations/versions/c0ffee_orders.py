from alembic import op

revision = "c0ffee"
down_revision = "9f31c2"


def upgrade():
    op.execute("CREATE TABLE orders (id int PRIMARY KEY)")
