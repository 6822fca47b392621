import os

from tortoise import fields, models

TORTOISE_ORM = {
    "connections": {"default": os.environ["TORTOISE_URL"]},
    "apps": {"models": {"models": ["shop", "aerich.models"], "default_connection": "default"}},
}


class Users(models.Model):
    id = fields.IntField(primary_key=True)
