import { test as base } from 'vitest';
import { acquire, workerDatabase } from './index.mjs';

/** The `test` of vitest with the fixtures `database` and `workerDatabase`, of a definition of pgstencil.toml. */
export function testWith(template) {
  return base.extend({
    database: async ({ task }, use) => {
      const database = await acquire(template);
      await use(database);
      await database.end(task.result?.state === 'fail' || (task.result?.errors?.length ?? 0) > 0, `test "${task.name}"`);
    },
    workerDatabase: async ({}, use) => use(await workerDatabase(template)),
  });
}

/** The same for a file with one definition. */
export const test = testWith();
export const it = test;
