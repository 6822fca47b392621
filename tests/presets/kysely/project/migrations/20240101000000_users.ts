export const up = (db: any) => db.schema.createTable('users').addColumn('id', 'integer').execute();
