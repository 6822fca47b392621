exports.up = (db) => db.schema.createTable('orders').addColumn('id', 'integer').execute();
