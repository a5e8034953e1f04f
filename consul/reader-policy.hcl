# For those who look up the writer: applications, templates, `consul-redis status`, and Consul's own DNS.
#
#   consul acl policy create -name consul-redis-reader -rules @consul/reader-policy.hcl
#
# DNS answers with the rights of the Consul agent's default (or DNS) token. It needs BOTH lines below:
# with service:read alone the synthetic node is invisible and every name is NXDOMAIN.
# (group) For each further group whose service has another name: repeat this line with that name.
service_prefix "redis" { policy = "read" }

node_prefix ""         { policy = "read" }

# The plain keys and the history, for templates and `status`. `list` is `read`, and the right to see all keys below,
# which `acl.enable_key_list_policy = true` asks for.
key_prefix "redis-ha/" { policy = "list" }
