/** A clone: one database, or several with an alias each. It is held until it is released, or its process ends. */
export interface Held {
  readonly name: string;
  /** URL of the first database, with the password. */
  readonly url: string;
  /** The URLs by alias. */
  readonly databases: Readonly<Record<string, string>>;
  /** `hit`, `miss`, `extended` ... */
  readonly outcome: string;
}

export declare class Database implements Held {
  private constructor();
  readonly name: string;
  readonly url: string;
  readonly databases: Readonly<Record<string, string>>;
  readonly outcome: string;
  /** Releases it; it is dropped off this process. Returns warnings. Does nothing if it is kept or released. */
  release(): Promise<string[]>;
  /** Keeps it beyond this process, for `[clone] ttl`. Returns until when; `null`: until it is released. */
  keep(): Promise<string | null>;
  /** Keeps it and prints its URL if the test failed, else releases it. */
  end(failed: boolean, test?: string): Promise<void>;
}

export declare class PgstencilError extends Error {
  /** The word of `--json`, such as `build`, `config` or `timeout`. */
  readonly kind: string;
}

export interface Options {
  /** A pattern as `--name` takes it. */
  name?: string;
  /** Limits waiting and building together, in milliseconds. */
  waitMs?: number;
}

/** Creates a clone of a definition's template, which is built if it is missing. */
export declare function acquire(template?: string, options?: Options): Promise<Database>;

/**
 * Wraps the function of a test: it gets a database of its own first, which is released at the end, or kept and told if
 * the test throws. Works with jest, vitest, `node:test` and mocha.
 */
export declare function withDatabase<A extends unknown[], R>(
  test: (database: Database, ...given: A) => R | Promise<R>,
): (...given: A) => Promise<R>;
export declare function withDatabase<A extends unknown[], R>(
  template: string | undefined,
  test: (database: Database, ...given: A) => R | Promise<R>,
): (...given: A) => Promise<R>;
export declare function withDatabase<A extends unknown[], R>(
  template: string | undefined,
  options: Options,
  test: (database: Database, ...given: A) => R | Promise<R>,
): (...given: A) => Promise<R>;

/** The database that all tests of this process share, released when it ends. */
export declare function workerDatabase(template?: string): Promise<Held>;

/** The program that is used: PGSTENCIL_BINARY, the one of this package, or the one on the PATH. */
export declare function binary(): string;
