# What lets consul-redis log in to Consul by an identity: the same as consul/login.sh makes, from the same files.
#
#   module "consul_redis" {
#     source = "git::https://git.example.com/consul-redis.git//contrib/terraform"
#     kind   = "nomad"
#   }

locals {
  files  = "${path.module}/../../consul"
  method = coalesce(var.method, var.kind == "nomad" ? "nomad-workloads" : var.kind)

  selectors = {
    nomad      = "value.nomad_namespace == \"default\" and value.nomad_job_id matches \"^redis(-sentinel|-cluster|-observer)?$\""
    kubernetes = "value.namespace == \"default\" and value.account == \"consul-redis\""
  }
}

resource "consul_acl_policy" "agent" {
  name        = "consul-redis-agent"
  description = "An agent of consul-redis"
  rules       = coalesce(var.policy, file("${local.files}/agent-policy.hcl"))
}

resource "consul_acl_role" "agent" {
  name        = "consul-redis"
  description = "What is logged in as consul-redis"
  policies    = [consul_acl_policy.agent.id]
}

resource "consul_acl_auth_method" "identity" {
  count = var.create_method ? 1 : 0

  name          = local.method
  type          = "jwt"
  description   = "By which consul-redis logs in"
  max_token_ttl = var.max_token_ttl
  config_json   = jsonencode(merge(jsondecode(file("${local.files}/login-${var.kind}.json")), var.config))
}

resource "consul_acl_binding_rule" "agent" {
  auth_method = local.method
  description = "consul-redis"
  selector    = coalesce(var.selector, local.selectors[var.kind])
  bind_type   = "role"
  bind_name   = consul_acl_role.agent.name

  depends_on = [consul_acl_auth_method.identity]
}
