"""Writes by the writer's name, whatever happens to the primary. Needs redis and dnspython.

    CONSUL_DNS=127.0.0.1:8600 python3 redis_py.py

Without CONSUL_DNS, the system's resolver is asked, which has to pass `consul.` on to Consul, and the port is 6379.
"""

import itertools
import os
import time

import dns.exception
import dns.resolver
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

NAME = "redis-primary.service.consul."
# A connection without an answer for so many seconds is no good any more: a host that is gone closes nothing.
TIMEOUT = 1.0
# Between a failure and the next attempt, in seconds: there may be no writer for a while.
PAUSE = 0.1
# What says that the connection, or the primary behind it, is gone. Everything else is the command's own fault.
GONE = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, dns.exception.DNSException)


def lookup():
    """Host and port of the writer, as Consul has it now."""
    server = os.environ.get("CONSUL_DNS")
    if not server:
        return NAME, 6379
    # It caches nothing.
    resolver = dns.resolver.Resolver(configure=False)
    host, port = server.rsplit(":", 1)
    resolver.nameservers, resolver.port = [host], int(port)
    resolver.lifetime = TIMEOUT
    row = resolver.resolve(NAME, "SRV")[0]
    return resolver.resolve(row.target, "A")[0].address, row.port


def primary_only(connection):
    """On every new connection of the pool: what a name leads to may be another server than the one that is meant."""
    connection.on_connect()
    connection.send_command("ROLE")
    if connection.read_response()[0] not in (b"master", "master"):
        raise redis.ConnectionError(f"{connection.host}:{connection.port} is no primary")


class Writer:
    """A client of the present writer, with its pool; another one after each failure that may mean another writer."""

    def __init__(self):
        self.client = None

    def call(self, *command):
        """Runs a command once. To repeat it is the caller's decision: it may have been done already."""
        try:
            if self.client is None:
                host, port = lookup()
                self.client = redis.Redis(
                    host=host,
                    port=port,
                    socket_timeout=TIMEOUT,
                    socket_connect_timeout=TIMEOUT,
                    redis_connect_func=primary_only,
                    # By default it repeats whatever failed, INCR too.
                    retry=Retry(NoBackoff(), 0),
                )
            return self.client.execute_command(*command)
        except GONE:
            self.forget()
            raise

    def forget(self):
        """All connections of the pool, those in use too: none of them leads to the writer."""
        if self.client is not None:
            self.client.connection_pool.disconnect(inuse_connections=True)
            self.client = None


def main():
    writer = Writer()
    for number in itertools.count():
        try:
            writer.call("SET", f"written:{number}", number)
            print("acknowledged", number, flush=True)
            time.sleep(0.01)
        except GONE as error:
            print("failed", number, type(error).__name__, error, flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
