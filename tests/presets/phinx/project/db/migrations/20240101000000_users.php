<?php
use Phinx\Migration\AbstractMigration;
final class Users extends AbstractMigration {}
