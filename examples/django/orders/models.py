from django.db import models, transaction
from django.db.models import F, Q


class Product(models.Model):
    name = models.CharField(max_length=100, unique=True)
    cents = models.PositiveIntegerField()
    stock = models.IntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(stock__gte=0), name="stock_not_negative"),
        ]

    def __str__(self):
        return self.name


class Order(models.Model):
    customer = models.CharField(max_length=100)
    placed_at = models.DateTimeField(auto_now_add=True)

    @classmethod
    @transaction.atomic
    def place(cls, customer, lines):
        """Takes the products from the stock, or none of them if the stock of one is too small."""
        order = cls.objects.create(customer=customer)
        for product, quantity in lines:
            order.lines.create(product=product, quantity=quantity)
            Product.objects.filter(pk=product.pk).update(stock=F("stock") - quantity)
        return order

    @property
    def cents(self):
        return self.lines.aggregate(sum=models.Sum(F("quantity") * F("product__cents")))["sum"] or 0


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
