exports.up = (knex) => knex.schema.createTable('users', (t) => t.integer('id').primary());
exports.down = (knex) => knex.schema.dropTable('users');
