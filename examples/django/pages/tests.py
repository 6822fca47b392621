from wagtail.models import Site
from wagtail.test.utils import WagtailPageTestCase

from pages.models import HomePage, RecipePage


class PageTests(WagtailPageTestCase):
    @classmethod
    def setUpTestData(cls):
        cls.home = HomePage.objects.get()
        cls.recipe = RecipePage(title="Plum cake", slug="plum-cake", minutes=50, body="<p>Stone the plums.</p>")
        cls.home.add_child(instance=cls.recipe)

    def test_the_home_page_of_the_migration_is_the_site(self):
        self.assertEqual(Site.objects.get(is_default_site=True).root_page.specific, self.home)

    def test_recipes_may_be_made_below_the_home_page_only(self):
        self.assertCanCreateAt(HomePage, RecipePage)
        self.assertCanNotCreateAt(RecipePage, RecipePage)

    def test_the_home_page_lists_its_recipes(self):
        response = self.client.get("/")
        self.assertContains(response, "Fresh since five o&#x27;clock")
        self.assertContains(response, "Plum cake")

    def test_a_recipe_shows(self):
        response = self.client.get("/plum-cake/")
        self.assertContains(response, "50 minutes")
        self.assertContains(response, "Stone the plums.")

    def test_a_recipe_renders_in_the_editor(self):
        self.assertPageIsEditable(self.recipe)
