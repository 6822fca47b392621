exports.setup = () => {};
exports.up = (db) => db.createTable('orders', { id: { type: 'int', primaryKey: true } });
exports.down = (db) => db.dropTable('orders');
exports._meta = { version: 1 };
