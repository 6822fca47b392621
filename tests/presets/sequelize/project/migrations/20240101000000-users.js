module.exports = {
  up: (q, s) => q.createTable('users', { id: { type: s.INTEGER, primaryKey: true } }),
  down: (q) => q.dropTable('users'),
};
