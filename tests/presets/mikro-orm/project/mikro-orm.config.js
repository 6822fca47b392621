const { defineConfig, EntitySchema } = require('@mikro-orm/postgresql');
const { Migrator } = require('@mikro-orm/migrations');
module.exports = defineConfig({
  clientUrl: process.env.DATABASE_URL,
  entities: [new EntitySchema({ name: 'Users', properties: { id: { type: 'number', primary: true } } })],
  extensions: [Migrator],
  migrations: { path: './migrations', snapshot: false },
});
