# A pack of the jobs in nomad/: docs/deploy.md.
app {
  url = ""
}

pack {
  name        = "consul_redis"
  description = "Redis with Sentinel, or a Redis Cluster, and Consul names that lead to the writer"
  version     = "0.1.0"
}
