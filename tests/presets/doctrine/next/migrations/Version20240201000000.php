<?php
final class Version20240201000000 extends AbstractMigration {}
