// Writes by the writer's name, whatever happens to the primary. Needs redis (node-redis 4 or 5).
//
//     CONSUL_DNS=127.0.0.1:8600 node node_redis.js
//
// Without CONSUL_DNS, the system's resolver is asked, which has to pass `consul.` on to Consul, and the port is 6379.
'use strict';

const { Resolver } = require('node:dns').promises;
const { setTimeout: sleep } = require('node:timers/promises');
const { createClient, ErrorReply } = require('redis');

const NAME = 'redis-primary.service.consul.';
// A connection without an answer for so many ms is no good any more: a host that is gone closes nothing.
const TIMEOUT = 1000;
// Between a failure and the next attempt, in ms: there may be no writer for a while.
const PAUSE = 100;

// Host and port of the writer, as Consul has it now.
async function lookup() {
  const server = process.env.CONSUL_DNS;
  if (!server) return { host: NAME, port: 6379 };
  // It caches nothing.
  const resolver = new Resolver({ timeout: TIMEOUT, tries: 1 });
  resolver.setServers([server]);
  const [row] = await resolver.resolveSrv(NAME);
  const [host] = await resolver.resolve4(row.name);
  return { host, port: row.port };
}

// What an answer says of the command itself leaves the connection as it is. Everything else means that the connection, or the
// primary behind it, is gone.
function isGone(error) {
  return !(error instanceof ErrorReply) || /^(READONLY|LOADING|MASTERDOWN|UNBLOCKED)/.test(error.message);
}

// A client of the present writer; another one after each failure that may mean another writer.
class Writer {
  // Runs a command once. To repeat it is the caller's decision: it may have been done already.
  async call(...command) {
    try {
      this.client ??= this.open();
      const client = await this.client;
      return await within(TIMEOUT, client.sendCommand(command));
    } catch (error) {
      if (isGone(error)) await this.forget();
      throw error;
    }
  }

  async open() {
    const socket = { ...(await lookup()), connectTimeout: TIMEOUT };
    // By itself it would connect to the same address again, and keep commands until it has.
    socket.reconnectStrategy = () => new Error('looked up again instead');
    const client = createClient({ socket, disableOfflineQueue: true });
    // The caller that waits for a command is told; without a listener the process would end.
    client.on('error', () => {});
    await within(TIMEOUT, client.connect());
    // What a name leads to may be another server than the one that is meant.
    const [role] = await within(TIMEOUT, client.sendCommand(['ROLE']));
    if (role === 'master') return client;
    await client.disconnect();
    throw new Error(`${socket.host}:${socket.port} is no primary`);
  }

  async forget() {
    const old = this.client;
    this.client = undefined;
    const client = await old?.catch(() => undefined);
    if (client?.isOpen) await client.disconnect();
  }
}

async function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function main() {
  const writer = new Writer();
  for (let number = 0; ; number++) {
    try {
      await writer.call('SET', `written:${number}`, `${number}`);
      console.log('acknowledged', number);
      await sleep(10);
    } catch (error) {
      console.log('failed', number, error.message);
      await sleep(PAUSE);
    }
  }
}

main();
