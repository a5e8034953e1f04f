output "method" {
  description = "What the agents' login_method is."
  value       = local.method
}

output "role" {
  description = "The role that a login gives."
  value       = consul_acl_role.agent.name
}
