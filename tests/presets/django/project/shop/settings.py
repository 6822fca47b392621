import os

SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "orders"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PG_NAME"],
        "HOST": os.environ["PG_HOST"],
        "PORT": os.environ["PG_PORT"],
        "USER": os.environ["PG_USER"],
        "PASSWORD": os.environ["PG_PASSWORD"],
        "TEST": {"NAME": os.environ.get("PGSTENCIL_NAME")},
    }
}
