// Writes to a Redis Cluster that is found by its name in Consul, through failovers. Needs redis (node-redis 4 or 5).
//
//     CONSUL_DNS=127.0.0.1:8600 node node_redis_cluster.js
//
// Without CONSUL_DNS, the system's resolver is asked, which has to pass `consul.` on to Consul, and the port is 6379.
'use strict';

const { Resolver } = require('node:dns').promises;
const { setTimeout: sleep } = require('node:timers/promises');
const { createCluster, ErrorReply } = require('redis');

// With a dot at its end: no search domain is tried.
const NAME = 'orders.service.consul.';
// A connection without an answer for so many ms is no good any more: a host that is gone closes nothing.
const TIMEOUT = 1000;
// Between a failure and the next attempt, in ms: until a replica has taken over, its slots take no writes.
const PAUSE = 100;

// Every node that can take requests, as Consul has it now.
async function seeds() {
  const server = process.env.CONSUL_DNS;
  if (!server) return [{ socket: { host: NAME, port: 6379 } }];
  // It caches nothing.
  const resolver = new Resolver({ timeout: TIMEOUT, tries: 1 });
  resolver.setServers([server]);
  const rows = await resolver.resolveSrv(NAME);
  return Promise.all(rows.map(async (row) => {
    const [host] = await resolver.resolve4(row.name);
    return { socket: { host, port: row.port } };
  }));
}

// What an answer says of the command itself leaves the client as it is. Everything else means that a node, or what the client
// knows of the slots, is gone.
function isGone(error) {
  return !(error instanceof ErrorReply)
    || /^(CLUSTERDOWN|MOVED|READONLY|LOADING|MASTERDOWN|TRYAGAIN)/.test(error.message);
}

// A client of the cluster; another one after each failure: it looks the name up, and asks who has which slots.
class Writer {
  // Runs a command on the node of its key, once. To repeat it is the caller's decision: it may have been done already.
  async call(key, ...command) {
    try {
      this.client ??= this.open();
      const client = await this.client;
      return await within(TIMEOUT, client.sendCommand(key, false, command));
    } catch (error) {
      if (isGone(error)) await this.forget();
      throw error;
    }
  }

  async open() {
    // By itself it would connect to the same address again, and keep commands until it has.
    const reconnectStrategy = () => new Error('looked up again instead');
    const client = createCluster({
      rootNodes: await seeds(),
      defaults: { socket: { connectTimeout: TIMEOUT, reconnectStrategy }, disableOfflineQueue: true },
    });
    // The caller that waits for a command is told; without a listener the process would end.
    client.on('error', () => {});
    try {
      await within(TIMEOUT, client.connect());
    } catch (error) {
      close(client);
      throw error;
    }
    return client;
  }

  async forget() {
    const old = this.client;
    this.client = undefined;
    const client = await old?.catch(() => undefined);
    if (client) close(client);
  }
}

// Its connections to nodes that are gone are closed already, which is said, and nothing else.
function close(client) {
  Promise.resolve().then(() => client.disconnect()).catch(() => {});
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
    const key = `written:${number}`;
    try {
      await writer.call(key, 'SET', key, `${number}`);
      console.log('acknowledged', number);
      await sleep(10);
    } catch (error) {
      console.log('failed', number, error.message);
      await sleep(PAUSE);
    }
  }
}

main();
