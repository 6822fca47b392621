<?php
return ['paths' => ['migrations' => 'db/migrations']];
