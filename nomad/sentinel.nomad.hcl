# Three Sentinels with an agent in each, for all groups of Redis:
#
#   nomad job run nomad/sentinel.nomad.hcl
#
# They know no group when they start: the agents tell them where each group's primary is. docs/deploy.md has the rest.
# Nomad 1.8 and later. Before 1.8: `max_client_disconnect = "12h"` in the group instead of the `disconnect` block; before 1.7 no `identity` block, and a
# token by CONSUL_HTTP_TOKEN_FILE.

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

# The groups of Redis that they watch: one, or more with commas.
variable "groups" {
  type    = string
  default = "redis"
}

# An odd number, 3 at the least. The quorum follows it.
variable "sentinel_count" {
  type    = number
  default = 3
}

# The same port on every host.
variable "port" {
  type    = number
  default = 26379
}

# The Consul agent of each host, which the host's Sentinel is registered on.
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

# One job for all groups.
job "redis-sentinel" {
  datacenters = var.datacenters
  type        = "service"

  # One after the other: a majority is always there.
  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "30s"
    healthy_deadline = "5m"
  }

  # The same when a client is drained.
  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "30s"
    healthy_deadline = "5m"
  }

  # All Sentinels.
  group "sentinel" {
    count = var.sentinel_count

    # Losing a host loses one vote.
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    # A client that the servers do not hear for a while goes on with what it runs, and nothing is started elsewhere. Without this, servers that
    # were away themselves for 45 s stop every allocation of the job and start new ones, all at once.
    disconnect {
      lost_after = "12h"
      replace    = false
      reconcile  = "keep_original"
    }

    # The host's own network, as for Redis.
    network {
      mode = "host"

      # `exec` announces the port that is called `sentinel`.
      port "sentinel" {
        static = var.port
      }
    }

    # What a Sentinel has promised and whom it knows is in its config, below alloc/data. It stays on the host, or moves with the Sentinel if it can.
    # One that has lost it is a new Sentinel to the others, and they forget the old one after `forget_sentinels_after`.
    ephemeral_disk {
      sticky  = true
      migrate = true
      size    = 300
    }

    # Nomad's own catalog, for `health_check` above; in Consul it is registered by its agent, as redis-sentinel.
    service {
      provider = "nomad"
      name     = "redis-sentinel-alive"
      port     = "sentinel"

      # It listens.
      check {
        type     = "tcp"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # Sentinel, and the agent as its parent.
    task "sentinel" {
      driver = "docker"

      # The image's entrypoint is `consul-redis exec --`, and this its command.
      config {
        image        = var.image
        network_mode = "host"
        args         = ["redis-sentinel", "--port", "${NOMAD_PORT_sentinel}"]
      }

      # A flag's variable each; docs/deploy.md lists them.
      env {
        CONSUL_HTTP_ADDR      = var.consul_http_addr
        CONSUL_REDIS_GROUP    = var.groups
        CONSUL_REDIS_ID       = "${node.unique.name}-sentinel"
        CONSUL_REDIS_DATA_DIR = "${NOMAD_ALLOC_DIR}/data"
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

      # The agent takes its registration away, then Sentinel stops. There is nothing to hand over.
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      # A Sentinel keeps no data.
      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
