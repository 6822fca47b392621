from django.db import models
from wagtail.fields import RichTextField
from wagtail.models import Page


class HomePage(Page):
    greeting = models.CharField(max_length=200, blank=True)

    content_panels = Page.content_panels + ["greeting"]


class RecipePage(Page):
    minutes = models.PositiveIntegerField(default=30)
    body = RichTextField(blank=True)

    content_panels = Page.content_panels + ["minutes", "body"]
    parent_page_types = ["pages.HomePage"]
