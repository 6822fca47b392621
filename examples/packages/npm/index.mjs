import all from './index.cjs';

export const { acquire, binary, Database, PgstencilError, withDatabase, workerDatabase } = all;
