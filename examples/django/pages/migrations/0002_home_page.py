from django.db import migrations


def create_home_page(apps, schema_editor):
    """Replaces Wagtail's welcome page by the bakery's home page."""
    ContentType = apps.get_model("contenttypes", "ContentType")
    Page = apps.get_model("wagtailcore", "Page")
    Site = apps.get_model("wagtailcore", "Site")
    HomePage = apps.get_model("pages", "HomePage")

    Page.objects.filter(id=2).delete()
    content_type, _ = ContentType.objects.get_or_create(app_label="pages", model="homepage")
    home = HomePage.objects.create(
        title="Bakery",
        draft_title="Bakery",
        slug="home",
        content_type=content_type,
        path="00010001",
        depth=2,
        numchild=0,
        url_path="/home/",
        greeting="Fresh since five o'clock",
        locale_id=Page.objects.get(id=1).locale_id,
    )
    Site.objects.create(hostname="localhost", root_page=home, is_default_site=True)


class Migration(migrations.Migration):
    dependencies = [
        ("pages", "0001_initial"),
        ("wagtailcore", "0054_initial_locale"),
    ]

    operations = [migrations.RunPython(create_home_page, migrations.RunPython.noop)]
