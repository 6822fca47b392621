exports.up = (pgm) => pgm.createTable('users', { id: { type: 'int', primaryKey: true } });
