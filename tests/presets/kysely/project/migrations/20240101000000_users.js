exports.up = (db) => db.schema.createTable('users').addColumn('id', 'integer').execute();
