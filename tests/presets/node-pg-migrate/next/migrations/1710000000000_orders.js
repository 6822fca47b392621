exports.up = (pgm) => pgm.createTable('orders', { id: { type: 'int', primaryKey: true } });
