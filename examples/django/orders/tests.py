import threading

from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase

from orders.models import Order, Product


class OrderTests(TestCase):
    def test_the_sum_of_an_order(self):
        bread = Product.objects.get(name="Rye bread")
        cake = Product.objects.get(name="Plum cake")
        order = Order.place("Ada", [(bread, 2), (cake, 1)])
        self.assertEqual(order.cents, 2 * 420 + 350)

    def test_stock_goes_down(self):
        croissant = Product.objects.get(name="Croissant")
        Order.place("Ada", [(croissant, 15)])
        croissant.refresh_from_db()
        self.assertEqual(croissant.stock, 25)

    def test_an_order_that_the_stock_does_not_fill_leaves_nothing(self):
        cake = Product.objects.get(name="Plum cake")
        with self.assertRaises(IntegrityError), transaction.atomic():
            Order.place("Ada", [(cake, 9)])
        self.assertFalse(Order.objects.exists())

    def test_content_types_and_permissions_are_there(self):
        order = ContentType.objects.get(app_label="orders", model="order")
        self.assertTrue(Permission.objects.filter(content_type=order, codename="add_order").exists())


class CommitTests(TransactionTestCase):
    """Needs real commits, so Django empties all tables afterwards and restores the rows of the
    migrations: otherwise the second test would find no products."""

    serialized_rollback = True

    def sell_in_another_connection(self):
        def sell():
            try:
                Order.place("Bob", [(Product.objects.get(name="Croissant"), 1)])
            finally:
                connection.close()

        thread = threading.Thread(target=sell)
        thread.start()
        thread.join()
        self.assertEqual(Product.objects.get(name="Croissant").stock, 39)
        self.assertEqual(Order.objects.count(), 1)

    def test_another_connection_sees_an_order(self):
        self.sell_in_another_connection()

    def test_and_so_does_the_next(self):
        self.sell_in_another_connection()
