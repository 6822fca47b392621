export const up = (db: any) => db.schema.createTable('orders').addColumn('id', 'integer').execute();
