from django.db import migrations

PRODUCTS = [("Rye bread", 420, 12), ("Croissant", 190, 40), ("Plum cake", 350, 8)]


def add_products(apps, schema_editor):
    Product = apps.get_model("orders", "Product")
    Product.objects.bulk_create(
        Product(name=name, cents=cents, stock=stock) for name, cents, stock in PRODUCTS
    )


def remove_products(apps, schema_editor):
    Product = apps.get_model("orders", "Product")
    Product.objects.filter(name__in=[name for name, _, _ in PRODUCTS]).delete()


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]

    operations = [migrations.RunPython(add_products, remove_products)]
