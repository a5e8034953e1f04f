"""Writes to a Redis Cluster that is found by its name in Consul, through failovers. Needs redis and dnspython.

    CONSUL_DNS=127.0.0.1:8600 python3 redis_py_cluster.py

Without CONSUL_DNS, the system's resolver is asked, which has to pass `consul.` on to Consul, and the port is 6379.
"""

import itertools
import os
import time

import dns.exception
import dns.resolver
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

# With a dot at its end: no search domain is tried.
NAME = "orders.service.consul."
# A connection without an answer for so many seconds is no good any more: a host that is gone closes nothing.
TIMEOUT = 1.0
# Between a failure and the next attempt, in seconds: until a replica has taken over, its slots take no writes.
PAUSE = 0.1
# All that a failover can show. Everything else is the command's own fault.
GONE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    redis.exceptions.ResponseError,
    dns.exception.DNSException,
)


def seeds():
    """Every node that can take requests, as Consul has it now."""
    server = os.environ.get("CONSUL_DNS")
    if not server:
        # The client looks the name up itself, each time that it needs to begin anew.
        return [ClusterNode(NAME, 6379)]
    resolver = dns.resolver.Resolver(configure=False)
    host, port = server.rsplit(":", 1)
    resolver.nameservers, resolver.port = [host], int(port)
    resolver.lifetime = TIMEOUT
    rows = resolver.resolve(NAME, "SRV")
    return [ClusterNode(resolver.resolve(row.target, "A")[0].address, row.port) for row in rows]


class Writer:
    """A client of the cluster; another one after each failure: it looks the name up, and asks who has which slots."""

    def __init__(self):
        self.client = None

    def call(self, *command):
        """Runs a command once. To repeat it is the caller's decision: it may have been done already."""
        try:
            if self.client is None:
                self.client = RedisCluster(
                    startup_nodes=seeds(),
                    # By default it forgets the name once it is connected, and knows the discovered addresses alone: when
                    # all of these have changed, it never comes back.
                    dynamic_startup_nodes=False,
                    # A part of the slots is better than none.
                    require_full_coverage=False,
                    socket_timeout=TIMEOUT,
                    socket_connect_timeout=TIMEOUT,
                    # By default it repeats whatever failed, INCR too. Redirections (MOVED, ASK) it follows all the same.
                    retry=Retry(NoBackoff(), 0),
                )
            return self.client.execute_command(*command)
        except GONE:
            self.forget()
            raise

    def forget(self):
        """What it knows of the cluster may be old."""
        if self.client is not None:
            self.client.close()
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
