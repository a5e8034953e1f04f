# Worth having on the Consul agents that answer your DNS. Consul's defaults work; these make a name that
# is wrong impossible to serve for long.

dns_config {
  # A Consul server that has lost its leader goes on answering DNS from what it last knew: by default for
  # ten years (max_stale = 87600h). Five seconds is Consul's own default from before 0.7.1.
  allow_stale = true
  max_stale   = "5s"

  # 0 s is the default and right for the writer. Do not set "*" here: a cached writer is a wrong writer.
  service_ttl {
    "redis-primary" = "0s"
    # Read endpoints may be a little old.
    "redis-replica" = "1s"
  }

  # Leave the agent cache off (the default): it would answer without looking.
  use_cache = false
}
