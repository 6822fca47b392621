import type { TestAPI } from 'vitest';
import type { Database, Held } from './index';

export interface Fixtures {
  /** A database for this test alone; kept and told if the test fails. */
  database: Database;
  /** The database that all tests of this process share. */
  workerDatabase: Held;
}

/** The `test` of vitest with the fixtures, of a definition of pgstencil.toml. */
export declare function testWith(template?: string): TestAPI<Fixtures>;
/** The same for a file with one definition. */
export declare const test: TestAPI<Fixtures>;
export declare const it: TestAPI<Fixtures>;
