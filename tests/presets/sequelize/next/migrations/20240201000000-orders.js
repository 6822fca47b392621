module.exports = {
  up: (q, s) => q.createTable('orders', { id: { type: s.INTEGER, primaryKey: true } }),
  down: (q) => q.dropTable('orders'),
};
