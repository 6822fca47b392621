exports.up = (knex) => knex.schema.createTable('orders', (t) => t.integer('id').primary());
exports.down = (knex) => knex.schema.dropTable('orders');
