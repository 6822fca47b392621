from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True


async def upgrade(db: BaseDBAsyncClient) -> str:
    return """ALTER TABLE "users" ADD "name" TEXT;"""


async def downgrade(db: BaseDBAsyncClient) -> str:
    return ""
