const { Pool } = require('pg');
const { PostgresDialect } = require('kysely');
module.exports = {
  dialect: new PostgresDialect({ pool: new Pool({ connectionString: process.env.DATABASE_URL }) }),
  migrations: { migrationFolder: 'migrations' },
};
