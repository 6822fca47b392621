'use strict';

// One process of `pgstencil serve --stdio` for each process of the test runner. It starts with the first request, and
// ends with this process, in whatever way this one ends, since its standard input ends then.

const childProcess = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

// Jest loads this file again for each test file. The modules of Node stay, so the process is kept with one of them.
const KEPT = Symbol.for('pgstencil.resident');

class PgstencilError extends Error {
  constructor(message, kind = 'failed') {
    super(message);
    this.name = 'PgstencilError';
    this.kind = kind;
  }
}

/** The program: PGSTENCIL_BINARY, the one of this package, or the one on the PATH. */
function binary() {
  if (process.env.PGSTENCIL_BINARY) return process.env.PGSTENCIL_BINARY;
  const own = path.join(__dirname, 'bin', 'pgstencil');
  return fs.existsSync(own) ? own : 'pgstencil';
}

/** Requests of this copy of the module that wait for an answer. */
const waiting = new Map();
let rest = '';

function read(text) {
  const lines = (rest + text).split('\n');
  rest = lines.pop();
  for (const line of lines) {
    const answer = JSON.parse(line);
    const request = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (request && answer.error) request.reject(errorOf(answer.error));
    else if (request) request.resolve(answer);
  }
}

function errorOf({ message, details, causes, hints, kind }) {
  const lines = [message, ...details.map((d) => `  ${d}`), ...causes.map((c) => `  caused by: ${c}`)];
  return new PgstencilError([...lines, ...hints.map((h) => `hint: ${h}`)].join('\n'), kind);
}

function fail(why) {
  for (const { reject } of waiting.values()) reject(new PgstencilError(why));
  waiting.clear();
}

function resident() {
  const kept = childProcess[KEPT];
  if (kept && kept.child.exitCode === null && kept.child.signalCode === null && !kept.failed) return kept;
  const child = childProcess.spawn(binary(), ['serve', '--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const started = { child, last: 0, failed: false };
  child.stdout.setEncoding('utf8');
  child.on('error', () => (started.failed = true));
  // What cannot be written is told by the end of the process.
  child.stdin.on('error', () => {});
  // This process may end while the other one waits for requests.
  child.unref();
  child.stdin.unref();
  child.stdout.unref();
  childProcess[KEPT] = started;
  return started;
}

/** Sends a request, and returns the answer. Listens only meanwhile, since a copy of this module must not outlive its test file. */
async function request(act, argument) {
  const kept = resident();
  const { child } = kept;
  const ended = (code, signal) => fail(`\`pgstencil serve\` ended with ${signal ?? `exit code ${code}`}; standard error has its messages`);
  const unstarted = (error) => fail(`cannot run ${child.spawnfile}: ${error.message}`);
  if (waiting.size === 0) rest = '';
  const id = ++kept.last;
  const first = waiting.size === 0;
  const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  if (first) child.stdout.on('data', read).resume();
  child.once('close', ended);
  child.once('error', unstarted);
  child.stdout.ref();
  child.stdin.write(JSON.stringify({ id, [act]: argument }) + '\n');
  try {
    return await answer;
  } finally {
    child.off('close', ended);
    child.off('error', unstarted);
    if (waiting.size === 0) {
      child.stdout.off('data', read);
      child.stdout.pause();
      child.stdout.unref();
    }
  }
}

class Database {
  #state = 'held';
  #until = null;

  constructor(answer) {
    const { name, databases } = answer.clone;
    const all = Object.entries(databases);
    this.name = name;
    this.url = all.find(([, database]) => database.name === name)[1].url;
    this.databases = Object.fromEntries(all.map(([alias, database]) => [alias, database.url]));
    this.outcome = answer.outcome;
  }

  async release() {
    if (this.#state !== 'held') return [];
    this.#state = 'released';
    return (await request('release', this.name)).warnings;
  }

  async keep() {
    if (this.#state === 'held') {
      this.#state = 'kept';
      this.#until = (await request('keep', this.name)).expires_at;
    }
    return this.#until;
  }

  /** Ends the use by a test: keeps the database and prints its URL if the test failed, else releases it. */
  async end(failed, test = 'a test') {
    if (!failed) {
      for (const warning of await this.release()) process.stderr.write(`pgstencil: warning: ${warning}\n`);
      return;
    }
    const until = (await this.keep()) ?? 'it is released';
    const all = Object.entries(this.databases);
    const urls = all.length === 1 ? [this.url] : all.map(([alias, url]) => `${alias}=${url}`);
    const lines = [`the database of ${test} is kept until ${until}`, ...urls, `release it: pgstencil release ${this.name}`];
    process.stderr.write(`pgstencil: ${lines.join('\n  ')}\n`);
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.release();
  }
}

/** Creates a clone of a definition's template, which is built if it is missing. */
async function acquire(template, { name, waitMs } = {}) {
  return new Database(await request('acquire', { template, name, wait_ms: waitMs }));
}

/** Wraps the function of a test: it gets a database of its own first. */
function withDatabase(...words) {
  const test = words.pop();
  const [template, options] = words;
  return async (...given) => {
    const database = await acquire(template, options);
    let failed = true;
    try {
      const result = await test(database, ...given);
      failed = false;
      return result;
    } finally {
      await database.end(failed, nameOfTest());
    }
  };
}

function nameOfTest() {
  const name = globalThis.expect?.getState?.().currentTestName;
  return name ? `test "${name}"` : 'a test';
}

/** The database that all tests of this process share, released when it ends. */
function workerDatabase(template) {
  const kept = resident();
  kept.worker ??= {};
  const key = template ?? '';
  kept.worker[key] ??= acquire(template).then(({ name, url, databases, outcome }) => JSON.stringify({ name, url, databases, outcome }));
  return kept.worker[key].then(JSON.parse);
}

module.exports = { acquire, binary, Database, PgstencilError, withDatabase, workerDatabase };
