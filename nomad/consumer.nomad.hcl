# An application that is told by its environment where the writer is, and is started again when that changes:
#
#   nomad job run nomad/consumer.nomad.hcl
#
# One that looks the name up itself needs none of this: docs/clients.md.
# Nomad 1.7 and later. Before: no `consul` block in the task; the template is rendered with the token of the Nomad client.

# An image with redis-cli, in the place of an application.
variable "image" {
  type    = string
  default = "redis:7-bookworm"
}

# Where the clients are.
variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

# The application's job.
job "redis-consumer" {
  datacenters = var.datacenters
  type        = "service"

  # Instances of the application.
  group "app" {
    count = 2

    # A change of the writer restarts it and does not count as a failure; if it fails by itself, it is tried again.
    restart {
      attempts = 5
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    # The application.
    task "app" {
      driver = "docker"

      # It writes every second. With `init` a process waits for the signal that a shell would not hear.
      config {
        image        = var.image
        network_mode = "host"
        init         = true
        command      = "sh"
        args         = ["-c", "while sleep 1; do redis-cli -u \"$REDIS_URL\" incr visits; done"]
      }

      # The environment, from the key that all of a group's publication is written together with. It is that of consul/templates/redis.env.ctmpl:
      # while there is no writer it waits for a key that is never there, and what waits is not rendered. So a failover restarts the
      # application once, when the new writer is there, and never with an empty address. `nomad alloc fs` shows nothing of secrets/; what is in it:
      # nomad alloc exec -task app ALLOCATION cat /secrets/redis.env
      template {
        destination = "${NOMAD_SECRETS_DIR}/redis.env"
        env         = true
        # With `env`, nothing else than `restart` (or `noop`) makes sense. A program that reads a file: no `env`, `change_mode = "signal"` and
        # `change_signal = "SIGHUP"`.
        change_mode = "restart"
        # All instances at once, and not spread over the 5 s that are the default: until then they write to a primary that is gone.
        splay = "0s"
        # Nomad reads Consul for templates as stale as it gets, 87600h, unless the client says `template { max_stale = "5s" }`.
        data = <<-EOT
          {{- $state := key "redis-ha/redis/state" | parseJSON -}}
          {{- if $state.writer -}}
          REDIS_HOST={{ $state.writer.address | regexReplaceAll ":[0-9]+$" "" | regexReplaceAll "[\\[\\]]" "" }}
          REDIS_PORT={{ $state.writer.address | regexReplaceAll "^.*:" "" }}
          REDIS_URL=redis://{{ $state.writer.address }}
          REDIS_GENERATION={{ $state.generation | printf "%.0f" }}
          {{ else }}{{ key "redis-ha/redis/no-writer" }}{{ end -}}
        EOT
      }

      # A Consul token for the template, where Consul has ACLs: it needs consul/reader-policy.hcl.
      consul {}

      # As long as the application needs to end.
      kill_signal  = "SIGTERM"
      kill_timeout = "5s"

      # As much as the application needs.
      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
