[[ if var "cluster" . -]]
# A Redis Cluster of six nodes with an agent in each:
#
#   nomad job run nomad/cluster.nomad.hcl
#
# There is no step that makes it: six blank nodes become a cluster through Consul, and orders.service.consul leads to all that take requests.
# docs/deploy.md says what has to be set up on the Nomad clients first.
# Nomad 1.8 and later. Before 1.8: `max_client_disconnect = "12h"` in the group instead of the `disconnect` block; before 1.7 no `identity` block, and a
# token by CONSUL_HTTP_TOKEN_FILE.

# The image that this repository's Dockerfile makes, where your clients find it.
variable "image" {
  type    = string
  default = [[ var "image" . | quote ]]
}

# Where the clients are.
variable "datacenters" {
  type    = list(string)
  default = [[ var "datacenters" . | toStringList ]]
}

# What the cluster is called, and what its names in Consul begin with.
variable "cluster" {
  type    = string
  default = [[ var "cluster_name" . | quote ]]
}

# How many nodes; the cluster is made when all of them are there: half of them own slots, and the others follow them.
variable "redis_count" {
  type    = number
  default = [[ var "cluster_count" . ]]
}

# The same port on every host, and 10000 more for the nodes among themselves. Another one for each cluster.
variable "port" {
  type    = number
  default = [[ var "cluster_port" . ]]
}

# The client's host volume that the data is on: `host_volume "redis-cluster-data" { path = "..." }` there, owned by 999:999, the image's user.
variable "volume" {
  type    = string
  default = [[ var "cluster_volume" . | quote ]]
}

# The Consul agent of each host: every Redis is registered on the agent of the host that it runs on.
variable "consul_http_addr" {
  type    = string
  default = [[ var "consul_http_addr" . | quote ]]
}

# The auth method that the agent logs in to Consul by, where Consul has ACLs: "nomad-workloads" is what `nomad setup consul` and
# consul/login.sh make. Nothing: no login.
variable "login_method" {
  type    = string
  default = [[ var "login_method" . | quote ]]
}

# One job for each cluster.
job [[ var "cluster_job" . | quote ]] {
  datacenters = var.datacenters
  type        = "service"

  # One after the other when the job is changed: a shard moves once for each node that is replaced, and no sooner than the last one is well.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "30s"
    healthy_deadline  = "5m"
    progress_deadline = "15m"
  }

  # The same when a client is drained. A drain with a `-deadline` below the kill_timeout cuts the handover short.
  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "30s"
    healthy_deadline = "5m"
  }

  # All nodes.
  group "nodes" {
    count = var.redis_count

    # Losing a host loses one node.
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

    # The host's own network: what Redis announces to Sentinel, to its replicas and to Consul is where it is, without address translation.
    network {
      mode = "host"

      # `exec` announces the port that is called `redis`: NOMAD_IP_redis and NOMAD_PORT_redis.
      port "redis" {
        static = var.port
      }

      # The nodes among themselves.
      port "bus" {
        static = var.port + 10000
      }
    }

    # The data stays on the host. An allocation that is placed there finds it again, and so does one after a restart.
    volume "data" {
      type   = "host"
      source = var.volume
    }

    # Where the data is it is started again, and not elsewhere, however often it fails.
    restart {
      attempts = 5
      interval = "5m"
      delay    = "5s"
      mode     = "delay"
    }

    # Nomad's own catalog, for `health_check` above. Consul is not told by Nomad: the agent registers the Redis itself, and who has which role.
    # A service of Nomad's in Consul with tags for the roles would get its first tags back whenever Nomad compares.
    service {
      provider = "nomad"
      name     = "${var.cluster}-alive"
      port     = "redis"

      # It listens.
      check {
        type     = "tcp"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # Redis, and the agent as its parent. So there is no order among tasks to get wrong: the agent leaves first, then Redis stops.
    task "redis" {
      driver = "docker"

      # The image's entrypoint is `consul-redis exec --`, and this its command.
      config {
        image        = var.image
        network_mode = "host"
        args         = ["redis-server", "--port", "${NOMAD_PORT_redis}", "--appendonly", "yes"]
      }

      # A flag's variable each; docs/deploy.md lists them.
      env {
        CONSUL_HTTP_ADDR      = var.consul_http_addr
        CONSUL_REDIS_CLUSTER  = var.cluster
        CONSUL_REDIS_EXPECT   = var.redis_count
        CONSUL_REDIS_ID       = "${node.unique.name}-${var.cluster}"
        CONSUL_REDIS_DATA_DIR = "/data"
        # Both are empty without a login.
        CONSUL_REDIS_LOGIN_METHOD      = var.login_method
        CONSUL_REDIS_BEARER_TOKEN_FILE = var.login_method == "" ? "" : "/secrets/nomad_login.jwt"
      }

      # The data, and Redis' config, which Redis writes to itself.
      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # Who this task is, signed by Nomad, and renewed by it on disk (Nomad 1.7 and later): the agent logs in by it, with the rights of
      # consul/agent-policy.hcl and what docs/cluster.md adds, fetches its token anew before it ends, and deletes it when it stops.
      identity {
        name = "login"
        aud  = ["consul.io"]
        file = true
        ttl  = "1h"
      }

      # The agent hands the shard over (up to 20 s) and leaves, then Redis saves and stops. A client cuts this to its own `max_kill_timeout`,
      # which is 30 s unless it says otherwise: set that to 60 s too.
      kill_signal  = "SIGTERM"
      kill_timeout = "60s"

      # Twice the memory of the data, for while Redis saves.
      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
[[ end -]]
