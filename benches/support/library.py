"""Writes one key of a Redis Cluster without pause, by redis-py's own discovery, and prints when each was acknowledged."""

import sys
import time

from redis.cluster import ClusterNode, RedisCluster

nodes = [address.rsplit(":", 1) for address in sys.argv[1:]]
client = RedisCluster(
    startup_nodes=[ClusterNode(host, int(port)) for host, port in nodes],
    socket_timeout=0.5,
    socket_connect_timeout=0.5,
)
while True:
    try:
        client.set("consul-redis", "library")
        print(f"{time.time():.6f}", flush=True)
    except Exception as error:  # Any of them: it is tried again.
        print(f"not written: {error}", flush=True)
    time.sleep(0.002)
