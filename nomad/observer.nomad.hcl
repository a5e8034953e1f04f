# An agent on every client, which watches the Sentinels and publishes what it sees:
#
#   nomad job run nomad/observer.nomad.hcl
#
# For Redis and Sentinels that run elsewhere, without an agent in each. Beside those of redis.nomad.hcl it adds health by HTTP on each host
# (docs/consumers.md), and agents that watch on when all Redis of a group are gone.
# Nomad 1.7 and later. Before: no `identity` block, and a token by CONSUL_HTTP_TOKEN_FILE.

# The image that this repository's Dockerfile makes, where your clients find it.
variable "image" {
  type    = string
  default = "registry.example.com/consul-redis:1"
}

# Where the clients are.
variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

# What to publish: NAME, or NAME=SERVICE where Consul is to call it otherwise; more with commas.
variable "groups" {
  type    = string
  default = "redis"
}

# The service in Consul that the Sentinels are registered under.
variable "sentinel_service" {
  type    = string
  default = "redis-sentinel"
}

# Where it answers /primary, /replica, /health and /metrics, on the host's loopback address.
variable "http_port" {
  type    = number
  default = 9790
}

# The Consul agent of each host.
variable "consul_http_addr" {
  type    = string
  default = "127.0.0.1:8500"
}

# The auth method that the agent logs in to Consul by, where Consul has ACLs: "nomad-workloads" is what `nomad setup consul` and
# consul/login.sh make. Nothing: no login.
variable "login_method" {
  type    = string
  default = ""
}

# `system`: one on every client. Any number of agents may publish at once, and it does not matter which of them is alive.
job "redis-observer" {
  datacenters = var.datacenters
  type        = "system"

  # One host after the other when the job is changed.
  update {
    max_parallel     = 1
    min_healthy_time = "10s"
  }

  # One agent.
  group "agent" {
    # The host's own network, for Consul and for those on the host who ask by HTTP.
    network {
      mode = "host"

      # Taken, so that nobody else gets it.
      port "http" {
        static = var.http_port
      }
    }

    # Again and again: it exits when Consul denies what it needs, or when it has lost a part of itself.
    restart {
      attempts = 5
      interval = "5m"
      delay    = "5s"
      mode     = "delay"
    }

    # The agent alone.
    task "agent" {
      driver = "docker"

      # Not `exec`, which is the image's entrypoint: there is no server to run.
      config {
        image        = var.image
        network_mode = "host"
        entrypoint   = ["consul-redis"]
        args         = ["agent"]
      }

      # A flag's variable each; the README lists them.
      env {
        CONSUL_HTTP_ADDR              = var.consul_http_addr
        CONSUL_REDIS_GROUP            = var.groups
        CONSUL_REDIS_SENTINEL_SERVICE = var.sentinel_service
        CONSUL_REDIS_LISTEN           = "127.0.0.1:${NOMAD_PORT_http}"
        CONSUL_REDIS_ID               = "${node.unique.name}-observer"
        # Both are empty without a login.
        CONSUL_REDIS_LOGIN_METHOD      = var.login_method
        CONSUL_REDIS_BEARER_TOKEN_FILE = var.login_method == "" ? "" : "/secrets/nomad_login.jwt"
      }

      # Who this task is, signed by Nomad, and renewed by it on disk (Nomad 1.7 and later): the agent logs in by it, with the rights of
      # consul/agent-policy.hcl, fetches its token anew before it ends, and deletes it when it stops.
      identity {
        name = "login"
        aud  = ["consul.io"]
        file = true
        ttl  = "1h"
      }

      # It stops within 2 s, and what it has published stays.
      kill_signal  = "SIGTERM"
      kill_timeout = "5s"

      # It waits far more than it works.
      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
