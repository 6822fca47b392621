<?php
use Phinx\Migration\AbstractMigration;
final class Orders extends AbstractMigration {}
